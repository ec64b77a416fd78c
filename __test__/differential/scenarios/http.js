'use strict';

// A server's response to upgrade requests, plain HTTP and other bytes.

const { frame, request } = require('../frames');

const body = (text) => text.slice(text.indexOf('\r\n\r\n') + 4);
const complete = (text) =>
  /content-length: (\d+)/i.test(text) && body(text).length >= Number(RegExp.$1);

function header(text, name) {
  const found = new RegExp(`^${name}: *(.*)\r$`, 'im').exec(text);
  return found ? found[1] : undefined;
}

// Sends plain HTTP requests and logs the responses.
async function plain(stage, ...requests) {
  const server = await stage.server({ path: 'some' });
  for (const [number, text] of requests.entries()) {
    const tcp = await stage.tcp(server);
    tcp.write(text);
    const answer = await tcp.received(complete);
    const [status] = answer.split('\r\n');
    stage.log(`request ${number}`, status, header(answer, 'content-type'), body(answer));
  }
}

// Sends an upgrade request and logs the status line and these headers of its response.
async function upgraded(stage, text, headers = []) {
  const server = await stage.server({ path: 'some' });
  const tcp = await stage.tcp(server);
  tcp.write(text);
  const answer = await tcp.received((received) => received.includes('\r\n\r\n'));
  stage.log('tcp', answer.split('\r\n')[0], ...headers.map((name) => header(answer, name)));
}

// A request to a server at /some that 1.7.2 does not answer and 2.0 refuses.
function wrongPath(path) {
  return {
    title: `an upgrade at ${path} is refused by a server at /some`,
    differs: ['D5'],
    expected: {
      original: { tcp: [['answer', '']], server: [['connection'], ['registered', 'a']] },
      ours: {
        tcp: [['answer', 'HTTP/1.1 404 Not Found']],
        server: [['connection'], ['registered', 'a']],
      },
    },
    async play(stage) {
      const server = await stage.server({ path: 'some' });
      const tcp = await stage.tcp(server);
      tcp.write(request(path));
      // 1.7.2 never answers: records what arrives until another client has been served.
      await stage.client('a', server, { path: 'some' });
      if (stage.implementation.name !== '1.7.2')
        await tcp.received((text) => text.includes('\r\n'));
      stage.log('tcp', 'answer', tcp.text.split('\r\n')[0]);
      stage.forget('client a');
    },
  };
}

const get = (path, ...more) => [`GET ${path} HTTP/1.1`, 'Host: x', ...more, '', ''].join('\r\n');

module.exports = [
  {
    title: 'plain HTTP is answered with 426, on every path',
    play: (stage) =>
      plain(stage, get('/'), get('/some'), get('/some?x=1'), get('/x', 'Connection: close')),
  },
  {
    title: 'plain HTTP of other methods is answered with 426',
    play: (stage) =>
      plain(
        stage,
        'POST /some HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n',
        'DELETE /some HTTP/1.1\r\nHost: x\r\n\r\n',
      ),
  },
  {
    title: 'an Upgrade header without its Connection header is plain HTTP',
    play: (stage) => plain(stage, get('/some', 'Upgrade: websocket')),
  },
  {
    title: 'an upgrade is answered with 101 and the accept key for its key',
    play: (stage) =>
      upgraded(stage, request('/some'), [
        'upgrade',
        'connection',
        'sec-websocket-accept',
        'sec-websocket-protocol',
      ]),
  },
  {
    title: 'header names and values of an upgrade may be written in any case',
    async play(stage) {
      const odd = request('/some')
        .replace('Connection: Upgrade', 'CONNECTION: keep-alive, upgrade')
        .replace('Upgrade: websocket', 'upgrade: WebSocket');
      await upgraded(stage, odd, ['sec-websocket-accept']);
    },
  },
  {
    title: 'the first of offered subprotocols is accepted',
    async play(stage) {
      await upgraded(stage, request('/some', ['Sec-WebSocket-Protocol: one, two']), [
        'sec-websocket-protocol',
      ]);
    },
  },
  {
    title: 'origin and cookies are ignored',
    play: (stage) =>
      upgraded(stage, request('/some', ['Origin: http://evil.example', 'Cookie: a=b'])),
  },
  {
    title: 'an upgrade without a key is a bad request',
    play: (stage) => upgraded(stage, request('/some').replace(/Sec-WebSocket-Key.*\r\n/, '')),
  },
  {
    title: 'an upgrade of an unknown version is a bad request',
    play: (stage) => upgraded(stage, request('/some').replace('Version: 13', 'Version: 12')),
  },
  {
    title: 'an upgrade of version 8 is accepted',
    play: (stage) => upgraded(stage, request('/some').replace('Version: 13', 'Version: 8')),
  },
  {
    title: 'an upgrade to another protocol is a bad request',
    play: (stage) =>
      upgraded(stage, request('/some').replace('Upgrade: websocket', 'Upgrade: h2c')),
  },
  {
    title: 'bytes that are not HTTP are a bad request',
    play: (stage) => upgraded(stage, 'hello\r\n\r\n'),
  },
  {
    title: 'compression is offered',
    differs: ['D12'],
    expected: {
      original: {
        tcp: [['HTTP/1.1 101 Switching Protocols', 'permessage-deflate']],
        server: [['connection']],
      },
      ours: {
        tcp: [['HTTP/1.1 101 Switching Protocols', '<undefined>']],
        server: [['connection']],
      },
    },
    async play(stage) {
      const offer = 'Sec-WebSocket-Extensions: permessage-deflate';
      await upgraded(stage, request('/some', [offer]), ['sec-websocket-extensions']);
      await stage.until('server', 'connection');
    },
  },
  {
    title: 'a client offers compression',
    differs: ['D12'],
    expected: {
      original: {
        'client a': [['open']],
        peer: [['offered', 'permessage-deflate; client_max_window_bits']],
      },
      ours: { 'client a': [['open']], peer: [['offered', '<undefined>']] },
    },
    async play(stage) {
      const peer = await stage.tcpServer((socket, head) => {
        stage.log('peer', 'offered', header(head, 'sec-websocket-extensions'));
        stage.upgrade(socket, head);
      });
      await stage.client('a', peer, { until: 'open' });
    },
  },
  ...['/', '/some/', '/SOME', '/some/more', '/other', '/some%20', '//some'].map(wrongPath),
  {
    title: 'a client at a wrong path gets an error and close(1006)',
    differs: ['D5'],
    expected: {
      original: { server: [['connection'], ['registered', 'b']] },
      ours: {
        'client a': [
          ['error', '<Error: unexpected server response (404)>'],
          ['close', 1006],
        ],
        server: [['connection'], ['registered', 'b']],
      },
    },
    async play(stage) {
      const server = await stage.server({ path: 'some' });
      stage.connect('a', server, { path: 'other' });
      await stage.client('b', server, { path: 'some' });
      if (stage.implementation.name !== '1.7.2') await stage.until('client a', 'close');
      stage.forget('client b');
    },
  },
  {
    title: 'a handshake may arrive in pieces, followed by the first frame',
    async play(stage) {
      const server = await stage.server({ path: 'some' });
      const tcp = await stage.tcp(server);
      const register = frame(0x81, Buffer.from('{"action":"register","id":"a"}'), { masked: true });
      const text = request('/some') + register.toString('latin1');
      for (let at = 0; at < text.length; at += 40) {
        tcp.write(text.slice(at, at + 40));
        await new Promise(setImmediate);
      }
      const answer = await tcp.received((received) => received.includes('"registered"'));
      stage.log('tcp', answer.split('\r\n')[0], answer.slice(answer.indexOf('{')));
    },
  },
  {
    title: 'a handshake and its first frames may arrive at once',
    async play(stage) {
      const server = await stage.server({ path: 'some' });
      const tcp = await stage.tcp(server);
      const send = (value) =>
        frame(0x81, Buffer.from(JSON.stringify(value)), { masked: true }).toString('latin1');
      const self = { action: 'send', message: 'hello', dest: 'a' };
      tcp.write(request('/some') + send({ action: 'register', id: 'a' }) + send(self));
      const answer = await tcp.received((received) => received.includes('hello'));
      stage.log(
        'tcp',
        answer.split('\r\n')[0],
        ...answer.slice(answer.indexOf('{')).match(/\{[^}]*\}/g),
      );
    },
  },
  {
    title: 'pings are answered, and fragments of messages are joined',
    async play(stage) {
      const server = await stage.server();
      const raw = await stage.raw(server);
      raw.ping('hello');
      await stage.until('raw', 'pong');
      const socket = raw.ws._socket;
      socket.write(frame(0x01, Buffer.from('{"action":"regi'), { masked: true }));
      raw.ping('between');
      socket.write(frame(0x00, Buffer.from('ster",'), { masked: true }));
      socket.write(frame(0x80, Buffer.from('"id":"a"}'), { masked: true }));
      await stage.until('raw', 'frame');
      await stage.until('raw', 'pong', 2);
      const lines = stage.recording().raw;
      lines.sort();
    },
  },
  {
    title: 'close codes and reasons are echoed',
    async play(stage) {
      const server = await stage.server();
      for (const [code, reason] of [
        [1000, ''],
        [1000, 'bye'],
        [1001, 'off'],
        [3000, 'x'],
        [4999, 'é'],
      ]) {
        const raw = await stage.raw(server, `raw ${code} ${reason}`);
        raw.close(code, reason);
        await stage.until(raw.name, 'close');
      }
    },
  },
  {
    title: 'an empty close frame is answered, and the connection ends',
    async play(stage) {
      const server = await stage.server();
      const tcp = await stage.tcp(server);
      tcp.write(request('/') + frame(0x88, Buffer.alloc(0), { masked: true }).toString('latin1'));
      const answer = await tcp.toEnd();
      stage.log('tcp', 'first byte', body(answer).charCodeAt(0));
    },
  },
];
