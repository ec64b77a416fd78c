'use strict';

// A played broker of a cluster. It does exactly what a test asks for: things that a real broker would not do,
// or between steps at which a real one cannot be stopped.

const { natsTalk } = require('./natstalk');

const PREFIX = 'wsmb.default';
/** The first byte of packets with frames, and of packets with credit. */
const FRAMES = 1;
const CREDITS = 3;
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

/** The texts in the frames of a packet. */
function* texts(packet) {
  const idLength = packet.readUInt32BE(5);
  for (let at = 9 + idLength; at < packet.length; ) {
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
    const size = payload.length - 9 - payload.readUInt32BE(5);
    return { reply, size, frames: [...texts(payload)] };
  }

  /** The next message that is not credit. */
  async #nextPacket() {
    for (;;) {
      const message = await this.#talk.next();
      if (message.payload[0] !== CREDITS) return message;
    }
  }

  /** Returns credit for a packet that has arrived, or was consumed, or both. */
  returnCredit({ reply, size }, { arrived = true, consumed = true } = {}) {
    const [, , , node, link, packet] = reply.split('.');
    const head = [bytes(CREDITS, 1), bytes(1, 4), Buffer.from(this.node, 'hex')];
    const amounts = [arrived, consumed].flatMap((is) => [bytes(is ? size : 0, 4), bytes(is, 4)]);
    const number = (hex) => Buffer.from(hex.padStart(16, '0'), 'hex');
    this.#talk.pub(
      `${PREFIX}.node.${node}.0`,
      Buffer.concat([...head, number(link), number(packet), ...amounts]),
    );
    return this.#talk.flush();
  }

  /** Confirms this many packets. Zero confirms the subscription only. */
  confirm({ reply }, packets = 0) {
    const taken = [
      Buffer.from(this.node, 'hex'),
      bytes(1, 4),
      bytes(packets, 4),
      bytes(packets, 4),
    ];
    this.#talk.pub(reply.split('.').slice(0, -1).join('.'), Buffer.concat(taken));
    return this.#talk.flush();
  }

  /** Sends the no responders status of NATS. */
  reportNoResponders({ reply }) {
    this.#talk.pub(reply, '', { status: 503 });
    return this.#talk.flush();
  }

  /** Sends a value to the broker of a packet. */
  sendFrame({ reply }, value) {
    const node = reply.split('.')[3];
    const head = [bytes(FRAMES, 1), bytes(1, 4), bytes(0, 4)];
    const payload = Buffer.concat([...head, frame(JSON.stringify(value))]);
    this.#talk.pub(`${PREFIX}.node.${node}.0`, payload, {
      reply: `${PREFIX}.node.${this.node}.1`,
    });
    return this.#talk.flush();
  }

  /** Sends a message to an id in the name of a broker. */
  sendMessage(id, message, node = this.node) {
    return this.#publishFrames(id, [{ action: 'message', message }], node);
  }

  /** Sends a request to an id. */
  sendRequest(id, message, ack) {
    return this.#publishFrames(id, [
      { action: 'asks', ack },
      { action: 'message', message, ack },
    ]);
  }

  #publishFrames(id, frames, node = this.node) {
    const name = Buffer.from(id);
    const head = [bytes(FRAMES, 1), bytes(1, 4), bytes(name.length, 4), name];
    const texts = frames.map((one) => frame(JSON.stringify(one)));
    const payload = Buffer.concat([...head, ...texts]);
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
    const beat = { is: 'beat', name: this.node, epoch: 1 };
    await this.broadcast(beat);
    const timer = setInterval(() => this.broadcast(beat).catch(() => {}), BEAT_MS);
    t.teardown(() => clearInterval(timer));
  }

  /** Broadcasts a value to all brokers. */
  broadcast(what) {
    this.#talk.pub(`${PREFIX}.all`, JSON.stringify({ node: this.node, ...what }));
    return this.#talk.flush();
  }
}

/** Peers on one connection: their packets arrive in order. */
async function startPeers(t, nats, count) {
  const talk = await natsTalk(t, nats);
  return Array.from({ length: count }, (_, n) => new Peer(talk, n + 7));
}

module.exports = { startPeers };
