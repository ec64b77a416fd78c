'use strict';

// Inputs made of spec/conversations.json, so that the fuzzer starts with all that the contract says.

const { client, server } = require('../spec/conversations.json');
const kit = require('../testkit/frames');

const TEXT = kit.FIN | kit.TEXT;
const BINARY = kit.FIN | kit.BINARY;
const CLOSE = kit.FIN | kit.CLOSE;
const PING = kit.FIN | kit.PING;

// First bytes of the fragments of a text.
const fragment = (n, count) => (n === 0 ? 0x01 : 0x00) | (n === count - 1 ? 0x80 : 0x00);

const text = (frame) => (typeof frame === 'string' ? frame : JSON.stringify(frame));

const closing = ({ close, reason = '' }) => {
  if (close === null) return Buffer.alloc(0);
  return Buffer.concat([Buffer.from([close >> 8, close & 0xff]), Buffer.from(reason)]);
};

// The frames of a step that writes some: first byte and payload.
function framesOf(step) {
  const { send, sendBinary, fragments, ping, close } = step;
  if (send !== undefined) return [[TEXT, Buffer.from(text(send))]];
  if (sendBinary !== undefined) return [[BINARY, Buffer.from(sendBinary, 'hex')]];
  if (fragments) {
    return fragments.flatMap((part, n) => [
      ...(n > 0 ? [[PING, Buffer.from('between')]] : []),
      [fragment(n, fragments.length), Buffer.from(part)],
    ]);
  }
  if (ping !== undefined) return [[PING, Buffer.from(ping)]];
  if (close !== undefined) return [[CLOSE, closing(step)]];
  return [];
}

// On the wire, masked with zeros or not at all.
function onWire([first, payload], masked) {
  return kit.frame(first, payload, { mask: masked ? kit.ZERO_MASK : undefined });
}

// decode: a text. Names that JavaScript makes of numbers are in no conversation.
function* decode() {
  for (const id of [
    '1e21',
    '123456789e12',
    '0.0000012',
    '1.2e-7',
    '-0',
    '1e999',
    '9007199254740993',
  ]) {
    yield Buffer.from(`{"action":"register","id":${id}}`);
  }
  for (const { steps } of [...server, ...client]) {
    for (const { send, expect, expectAll = [], fragments } of steps) {
      for (const frame of [send, expect, ...expectAll, fragments?.join('')]) {
        if (frame !== undefined) yield Buffer.from(text(frame));
      }
    }
  }
}

// framing: role and limit, how it is cut, and the bytes of one side.
function* framing() {
  const NO_LIMIT = 3 << 1;
  const EARLY = 8;
  const CUT = 0x37;
  for (const { steps } of server) {
    const bytes = steps.flatMap(framesOf).map((frame) => onWire(frame, true));
    for (const settings of [NO_LIMIT, NO_LIMIT | EARLY]) {
      yield Buffer.concat([Buffer.from([settings, CUT]), ...bytes]);
    }
  }
  for (const { steps } of client) {
    const bytes = steps.flatMap((step) =>
      step.sendBytes
        ? [Buffer.from(step.sendBytes, 'hex')]
        : framesOf(step).map((frame) => onWire(frame, false)),
    );
    yield Buffer.concat([Buffer.from([NO_LIMIT | 1, CUT]), ...bytes]);
  }
}

// conversation: lines, as properties/conversation.rs has them.
const DEEDS = new Map([
  [TEXT, 't'],
  [BINARY, 'b'],
  [CLOSE, 'c'],
  [PING, 'p'],
  [0x01, '<'],
  [0x00, '+'],
  [0x80, '>'],
]);

function* conversation() {
  for (const { registered = [], version2 = [], steps } of server) {
    const names = new Map();
    const peer = (name) => {
      if (!names.has(name)) names.set(name, 'abcd'[names.size % 4]);
      return names.get(name);
    };
    const register = (id) => ({
      action: 'register',
      id,
      ...(version2.includes(id) && { protocol: 2 }),
    });
    const lines = registered.map((id) => `${peer(id)}t${text(register(id))}`);
    lines.push('');
    for (const step of steps) {
      const written = framesOf(step);
      if (step.vanish) lines.push(`${peer(step.peer)}v`);
      else if (step.server) lines.push('aq');
      else if (written.length === 0) lines.push('');
      for (const [first, payload] of written) {
        lines.push(`${peer(step.peer)}${DEEDS.get(first)}${payload.toString('latin1')}`);
      }
    }
    yield Buffer.from(lines.join('\n'), 'latin1');
  }
}

// handshake: how it is cut, and a request. The contract has no conversations of these.
function* handshake() {
  const fields = [
    'Host: localhost',
    'Upgrade: websocket',
    'Connection: keep-alive, Upgrade',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ];
  const request = (line, others) => `${[line, ...others].join('\r\n')}\r\n\r\n`;
  const requests = [
    ...['GET /ws', 'GET /ws?x=1', 'POST /ws', 'GET /', 'GET /ws/'].map((line) =>
      request(`${line} HTTP/1.1`, fields),
    ),
    ...fields.map((field) =>
      request(
        'GET /ws HTTP/1.1',
        fields.filter((other) => other !== field),
      ),
    ),
    ...[
      'Key: short==',
      `Key: ${'x'.repeat(24)}`,
      'Version: 8',
      'Version: 7',
      'Protocol: one, two',
      'Extensions: deflate',
    ].map((field) => request('GET /ws HTTP/1.1', [`Sec-WebSocket-${field}`, ...fields])),
    request('GET /ws HTTP/1.1', fields) + onWire([TEXT, Buffer.from('{}')], true),
    request('GET /ws HTTP/1.1', Array(120).fill('a:')),
    request('GET /ws HTTP/1.0', fields),
    request('GET http://localhost/ws HTTP/1.1', fields),
    request('\r\nGET /ws HTTP/1.1', fields),
    request('GET /ws HTTP/1.1', fields).replaceAll('\r', ''),
    request('GET /ws HTTP/1.1', fields).replaceAll('\n', ''),
    ...[
      'Host: b',
      ' folded',
      'A : b',
      'A: \0',
      'Content-Length: 5',
      'Transfer-Encoding: chunked',
    ].map((field) => request('GET /ws HTTP/1.1', [...fields, field])),
    `GET /ws HTTP/1.1\r\nA: ${'x'.repeat(1000)}`,
  ];
  for (const text of requests) {
    for (const cut of ['\x00', '\xff']) yield Buffer.from(cut + text, 'latin1');
  }
}

// Names and bytes of the inputs for a target.
exports.unitsOfSpec = (target) => {
  // Their bytes are no frames.
  const [members, message] = [() => [], () => []];
  const units = { conversation, decode, framing, handshake, members, message }[target]();
  return [...units].map((bytes, n) => [`spec-${String(n).padStart(3, '0')}`, bytes]);
};
