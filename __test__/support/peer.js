'use strict';

// A played broker of a cluster. It does exactly what a test asks for: things that a real broker would not do,
// or between steps at which a real one cannot be stopped.

const { natsTalk } = require('./natstalk');

const PREFIX = 'wsmb.default';
/** The version of the format, and the kinds of messages: src/cluster/message.rs. */
const VERSION = 1;
const HEARTBEAT = 1;
const PACKET = 2;
const CREDIT = 5;
const CLAIMS = 6;
const BYE = 9;
/** The interval between two heartbeats of a broker, ms. */
const BEAT_MS = 1000;

/** A big-endian number of this many bytes. */
function bytes(number, length) {
  return Buffer.from(
    Number(number)
      .toString(16)
      .padStart(2 * length, '0'),
    'hex',
  );
}

/** A text frame of a server. */
function frame(text) {
  const body = Buffer.from(text);
  const length = body.length < 126 ? [body.length] : [126, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([0x81, ...length]), body]);
}

/** A text with its length. */
const field = (text) => Buffer.concat([bytes(Buffer.byteLength(text), 4), Buffer.from(text)]);

/** A message of this kind. */
const message = (kind, ...fields) => Buffer.concat([bytes(VERSION, 1), bytes(kind, 1), ...fields]);

/** A packet of epoch 1 for an id, or for a broker if it is empty. */
const packetFor = (id, values) =>
  message(
    PACKET,
    bytes(0, 1),
    bytes(1, 4),
    field(id),
    ...values.map((value) => frame(JSON.stringify(value))),
  );

/** The position of the frames of a packet. */
const framesAt = (packet) => 11 + packet.readUInt32BE(7);

/** The texts in the frames of a packet. */
function* texts(packet) {
  for (let at = framesAt(packet); at < packet.length; ) {
    const mark = packet[at + 1];
    const start = at + ({ 126: 4, 127: 10 }[mark] ?? 2);
    const lengths = {
      126: () => packet.readUInt16BE(at + 2),
      127: () => packet.readUInt32BE(at + 6),
    };
    const end = start + (lengths[mark]?.() ?? mark);
    yield JSON.parse(packet.toString('utf8', start, end));
    at = end;
  }
}

class Peer {
  #talk;
  #published = 0;

  constructor(talk, node) {
    this.#talk = talk;
    this.node = node.toString(16).padStart(16, '0');
  }

  /** Subscribes to an id. Resolves with the function that unsubscribes. */
  subscribe(id) {
    const name = Buffer.from(id).toString('base64url');
    return this.#talk.sub(`${PREFIX}.to.i${name}`, 'wsmb');
  }

  /** The next packet: its source, the bytes of its frames, and their contents. */
  async next() {
    const { reply, payload } = await this.#nextPacket();
    const size = payload.length - framesAt(payload);
    return { reply, size, frames: [...texts(payload)] };
  }

  /** The next message that is not credit. */
  async #nextPacket() {
    for (;;) {
      const next = await this.#talk.next();
      if (next.payload[1] !== CREDIT) return next;
    }
  }

  /** Returns credit for a packet that has arrived, or was consumed, or both. */
  returnCredit({ reply, size }, { arrived = true, consumed = true } = {}) {
    const [, , , node, link, packet] = reply.split('.');
    const amounts = [arrived, consumed].flatMap((is) => [bytes(is ? size : 0, 4), bytes(is, 4)]);
    const number = (hex) => Buffer.from(hex.padStart(16, '0'), 'hex');
    const credit = [number(link), number(packet), ...amounts];
    const fields = [this.#node(), bytes(1, 4), bytes(1, 4), ...credit];
    this.#talk.pub(`${PREFIX}.node.${node}.0`, message(CREDIT, ...fields));
    return this.#talk.flush();
  }

  /** Confirms the subscription, and no packet. */
  confirm(packet) {
    return this.returnCredit(packet, { arrived: false, consumed: false });
  }

  /** Sends the no responders status of NATS. */
  reportNoResponders({ reply }) {
    this.#talk.pub(reply, '', { status: 503 });
    return this.#talk.flush();
  }

  /** Sends a value to the broker of a packet. */
  sendFrame({ reply }, value) {
    const node = reply.split('.')[3];
    const payload = packetFor('', [value]);
    this.#talk.pub(`${PREFIX}.node.${node}.0`, payload, {
      reply: `${PREFIX}.node.${this.node}.1`,
    });
    return this.#talk.flush();
  }

  /** Sends a message to an id in the name of a broker. */
  sendMessage(id, content, node = this.node) {
    return this.#publishFrames(id, [{ action: 'message', message: content }], node);
  }

  /** Sends a request to an id. */
  sendRequest(id, content, ack) {
    return this.#publishFrames(id, [
      { action: 'asks', ack },
      { action: 'message', message: content, ack },
    ]);
  }

  #publishFrames(id, frames, node = this.node) {
    const name = Buffer.from(id);
    const payload = packetFor(id, frames);
    this.#talk.pub(`${PREFIX}.to.i${name.toString('base64url')}`, payload, {
      reply: `${PREFIX}.node.${node}.1`,
    });
    return this.#talk.flush();
  }

  /** Subscribes to messages for this broker itself: answers and failures. */
  subscribeNode() {
    return this.#talk.sub(`${PREFIX}.node.${this.node}.0`);
  }

  /**
   * Sends heartbeats until the test ends. A broker that sends only credit for five seconds is given up, along
   * with its requests.
   */
  async sendHeartbeats(t) {
    await this.sendHeartbeat();
    const timer = setInterval(() => this.sendHeartbeat().catch(() => {}), BEAT_MS);
    t.teardown(() => clearInterval(timer));
  }

  /** Broadcasts a heartbeat, which may be of another version of the format. */
  sendHeartbeat(version = VERSION) {
    const fields = [field(this.node), bytes(1, 4), bytes(0, 8), bytes(0, 1), bytes(0, 8)];
    const beat = message(HEARTBEAT, this.#node(), ...fields);
    beat[0] = version;
    return this.#broadcast(beat);
  }

  /** Broadcasts a confirmed claim of an id without a principal. */
  claim(id, time) {
    this.#published += 1;
    const stamp = [bytes(time, 8), this.#node()];
    const claim = [field(id), ...stamp, bytes(0, 1), bytes(1, 1), bytes(time, 8)];
    const head = [this.#node(), bytes(this.#published, 8), bytes(1, 4)];
    return this.#broadcast(message(CLAIMS, ...head, ...claim));
  }

  /** Broadcasts that the broker leaves. */
  leave() {
    return this.#broadcast(message(BYE, this.#node()));
  }

  #node() {
    return Buffer.from(this.node, 'hex');
  }

  #broadcast(payload) {
    this.#talk.pub(`${PREFIX}.all`, payload);
    return this.#talk.flush();
  }
}

/** Peers on one connection: their packets arrive in order. */
async function startPeers(t, nats, count) {
  const talk = await natsTalk(t, nats);
  return Array.from({ length: count }, (_, n) => new Peer(talk, n + 7));
}

module.exports = { startPeers };
