'use strict';

// Plays a conversation of spec/conversations.json with a client and a played server. The steps are described
// in that file.

const { isDeepStrictEqual } = require('node:util');
const { BINARY, FIN, Played, TEXT, soon } = require('./wire');

const WRONG_KEY =
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
  'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n';

const text = (frame) => (typeof frame === 'string' ? frame : JSON.stringify(frame));

/** A client and its server during a conversation. */
class Stage {
  #conversation;
  #server;
  #client;
  /** The connection of the client. */
  #wire = null;
  /** The promise of the next report, once requested. */
  #asked = null;
  #reports = [];
  #outcomes = new Map();
  /** Acks of the client by their names in the steps. */
  #acks = new Map();
  /** Numbers of responses by the JSON of their acks. */
  #responses = new Map();
  #closed = false;

  static async play(driver, conversation) {
    const stage = new Stage();
    stage.#conversation = conversation;
    stage.#server = await Played.listen();
    try {
      await stage.#play(driver);
    } finally {
      stage.#wire?.end();
      stage.#server.close();
    }
  }

  async #play(driver) {
    const { id, token, protocol = 1, open, registered, steps } = this.#conversation;
    this.#client = await driver.make(id, this.#server.port, { token, protocol });
    // The client connects at the end of the tick in which it is constructed.
    await new Promise(setImmediate);
    const begin = [
      { accept: true },
      { report: 'open' },
      { expect: { action: 'register', id, token, ...(protocol > 1 && { protocol }) } },
      { send: { action: 'registered', id, ...(protocol > 1 && { protocol }) } },
      { report: 'registered' },
    ];
    const before = registered ? begin : open ? begin.slice(0, 3) : [];
    for (const [n, step] of [...before, ...steps].entries()) {
      await this.#step(step).catch((error) => {
        error.message = `step ${n + 1 - before.length}: ${JSON.stringify(step)}\n  ${error.message}`;
        throw error;
      });
    }
    await this.#end();
  }

  async #step(step) {
    if (step.call) return this.#call(step);
    if (step.report) return this.#expectReport(step);
    if (step.outcome) return this.#expectOutcome(step);
    if (step.accept || step.refuse) return this.#handshake(step);
    if (step.vanish) return this.#vanish();
    const wire = this.#wire;
    if (step.expect !== undefined) return this.#expect(text(step.expect));
    if (step.send !== undefined) return wire.text(this.#filled(text(step.send)));
    if (step.fragments) return wire.fragments(step.fragments);
    if (step.sendBinary !== undefined) {
      return wire.send(FIN | BINARY, Buffer.from(step.sendBinary, 'hex'));
    }
    if (step.sendBytes) return wire.write(Buffer.from(step.sendBytes, 'hex'));
    if (step.ping !== undefined) return wire.ping(step.ping);
    if (step.close !== undefined) return wire.close(step.close, step.reason);
    if (step.expectClose !== undefined) return this.#expectClose(step.expectClose);
    throw new Error('unknown step');
  }

  async #call(step) {
    const response = this.#responses.get(JSON.stringify(step.ack));
    const failed = await this.#client.call({ ...step, response });
    same(failed, step.fails ?? null);
  }

  async #handshake({ accept, refuse }) {
    const wire = await this.#server.connection();
    if (accept === true) {
      await wire.accept();
      this.#wire = wire;
      return;
    }
    await wire.head();
    wire.write(refuse ? `HTTP/1.1 ${refuse} No\r\nContent-Length: 0\r\n\r\n` : WRONG_KEY);
    wire.end();
  }

  async #vanish() {
    const wire = this.#wire ?? (await this.#server.connection());
    wire.end();
    this.#wire = null;
  }

  async #expectClose(code) {
    same(await this.#wire.closed(), code);
    this.#wire = null;
  }

  /** A frame with acks in place of their names. */
  #filled(frame) {
    return frame.replace(/<(\w+)>/g, (_, name) => this.#acks.get(name));
  }

  /** Expects the next frame. An ack that is seen for the first time belongs to its name. */
  async #expect(expected) {
    const found = (await this.#wire.expect(TEXT, expected)).toString();
    const fresh = /<(\w+)>/.exec(expected)?.[1];
    if (fresh && !this.#acks.has(fresh)) {
      const ack = /"ack":"([a-zA-Z0-9]{20})"/.exec(found)?.[1];
      if (!ack || [...this.#acks.values()].includes(ack)) throw new Error(`no new ack: ${found}`);
      this.#acks.set(fresh, ack);
    }
    same(found, this.#filled(expected));
  }

  /** Waits for one more report or result. */
  async #hear() {
    this.#asked ??= this.#client.nextReport();
    const heard = await soon(this.#asked, 'report');
    this.#asked = null;
    if (heard.outcome !== undefined) this.#outcomes.set(heard.outcome, heard);
    else this.#reports.push(heard);
  }

  async #expectReport({ ack, ...expected }) {
    while (this.#reports.length === 0) await this.#hear();
    const { response, ...found } = this.#reports.shift();
    if (expected.report === 'answer') expected.ack = ack;
    if (expected.code === '<any>') delete expected.code;
    if (found.report === 'error' && !('code' in expected)) delete found.code;
    same(found, expected);
    // The ack is known to the client only, the response to its program only.
    const key = JSON.stringify(ack);
    if (found.report === 'message') {
      same(response !== undefined, ack !== undefined);
      this.#responses.set(key, response);
    } else if (found.report === 'cancel') {
      same(response, this.#responses.get(key));
    }
    this.#closed ||= found.report === 'close';
  }

  async #expectOutcome({ outcome, resolves, rejects }) {
    while (!this.#outcomes.has(outcome)) await this.#hear();
    const found = this.#outcomes.get(outcome);
    this.#outcomes.delete(outcome);
    if (rejects === undefined) {
      same(found, { outcome, resolves });
      return;
    }
    for (const [name, value] of Object.entries(rejects)) same(found.rejects?.[name], value);
    same('rejects' in found, true);
  }

  /** Checks that the client writes and reports nothing more. */
  async #end() {
    if (!this.#closed) {
      const { id } = this.#conversation;
      await this.#step({ send: { action: 'unregistered', id: '(end)' } });
      await this.#step({ report: 'unregistered', id: '(end)' });
      same([...this.#outcomes.values()], []);
      await this.#step({ call: 'unregister' });
      await this.#step({ expect: { action: 'unregister', id } });
      await this.#step({ vanish: true });
      await this.#step({ report: 'close', code: 1006 });
    }
    const nothing = new Promise((resolve) => setImmediate(resolve, null));
    for (let heard; heard !== null; ) {
      this.#asked ??= this.#client.nextReport();
      heard = await Promise.race([this.#asked, nothing]);
      this.#asked = null;
      if (heard && heard.outcome === undefined) this.#reports.push(heard);
    }
    same(this.#reports, []);
  }
}

function same(found, expected) {
  if (!isDeepStrictEqual(found, json(expected))) {
    throw new Error(`found    ${text(found)}\n  expected ${text(expected)}`);
  }
}

/** A value without its undefined members. */
function json(value) {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}

module.exports = Stage;
