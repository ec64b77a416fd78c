'use strict';

// A broker as the others of a cluster see it, which does just what a test says: what no real one would, or
// only between two steps that nobody can stop at.

const { natsTalk } = require('./natstalk');

const PREFIX = 'wsmb.default';
/** The first byte of what carries frames, and of what returns credit. */
const FRAMES = 1;
const CREDITS = 3;
/** How often a broker says that it is there. */
const BEAT_MS = 1000;

/** A big-endian number of so many bytes. */
function bytes(number, length) {
  return Buffer.from(
    Number(number)
      .toString(16)
      .padStart(2 * length, '0'),
    'hex',
  );
}

/** The text frame of a server. */
function frame(text) {
  const body = Buffer.from(text);
  const length = body.length < 126 ? [body.length] : [126, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from([0x81, ...length]), body]);
}

/** What is in the frames of a packet. */
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

  /** Takes what is for an id; resolves with what ends that. */
  takes(id) {
    const name = Buffer.from(id).toString('base64url');
    return this.#talk.sub(`${PREFIX}.to.i${name}`, 'wsmb');
  }

  /** The next packet: where it comes from, the bytes of its frames, and what is in them. */
  async next() {
    const { reply, payload } = await this.#nextPacket();
    const size = payload.length - 9 - payload.readUInt32BE(5);
    return { reply, size, frames: [...texts(payload)] };
  }

  /** The next message that is no credit. */
  async #nextPacket() {
    for (;;) {
      const message = await this.#talk.next();
      if (message.payload[0] !== CREDITS) return message;
    }
  }

  /** Returns credit for a packet that has arrived, or was consumed, or both. */
  returnsCredit({ reply, size }, { arrived = true, consumed = true } = {}) {
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

  /** Says that it has taken so many packets; none: that it begins to. */
  tellsTaken({ reply }, packets = 0) {
    const taken = [
      Buffer.from(this.node, 'hex'),
      bytes(1, 4),
      bytes(packets, 4),
      bytes(packets, 4),
    ];
    this.#talk.pub(reply.split('.').slice(0, -1).join('.'), Buffer.concat(taken));
    return this.#talk.flush();
  }

  /** As NATS would say it. */
  tellsUnheard({ reply }) {
    this.#talk.pub(reply, '', { status: 503 });
    return this.#talk.flush();
  }

  /** Tells something to the broker of a packet. */
  tells({ reply }, value) {
    const node = reply.split('.')[3];
    const head = [bytes(FRAMES, 1), bytes(1, 4), bytes(0, 4)];
    const payload = Buffer.concat([...head, frame(JSON.stringify(value))]);
    this.#talk.pub(`${PREFIX}.node.${node}.0`, payload, {
      reply: `${PREFIX}.node.${this.node}.1`,
    });
    return this.#talk.flush();
  }

  /** Sends a message to an id, as if it came from that broker. */
  sends(id, message, node = this.node) {
    return this.#sendsFrames(id, [{ action: 'message', message }], node);
  }

  /** Sends a request to an id. */
  asks(id, message, ack) {
    return this.#sendsFrames(id, [
      { action: 'asks', ack },
      { action: 'message', message, ack },
    ]);
  }

  #sendsFrames(id, frames, node = this.node) {
    const name = Buffer.from(id);
    const head = [bytes(FRAMES, 1), bytes(1, 4), bytes(name.length, 4), name];
    const texts = frames.map((one) => frame(JSON.stringify(one)));
    const payload = Buffer.concat([...head, ...texts]);
    this.#talk.pub(`${PREFIX}.to.i${name.toString('base64url')}`, payload, {
      reply: `${PREFIX}.node.${node}.1`,
    });
    return this.#talk.flush();
  }

  /** Hears what is for this broker itself: answers, and what became of messages. */
  hears() {
    return this.#talk.sub(`${PREFIX}.node.${this.node}.0`);
  }

  /**
   * Says that it is there, now and until the test ends: a broker of which nothing but credit is heard for five
   * seconds is given up, and what it asked with it.
   */
  async lives(t) {
    const beat = { is: 'beat', name: this.node, epoch: 1 };
    await this.says(beat);
    const timer = setInterval(() => this.says(beat).catch(() => {}), BEAT_MS);
    t.teardown(() => clearInterval(timer));
  }

  /** Says something to all. */
  says(what) {
    this.#talk.pub(`${PREFIX}.all`, JSON.stringify({ node: this.node, ...what }));
    return this.#talk.flush();
  }
}

/** So many of them, of one connection: what they do comes in order. */
async function startPeers(t, nats, count) {
  const talk = await natsTalk(t, nats);
  return Array.from({ length: count }, (_, n) => new Peer(talk, n + 7));
}

module.exports = { startPeers };
