'use strict';

// What goes between a client and others, whatever connection carries it: messages, what becomes of requests,
// and what the program is told of them.

const { failure, remote, text } = require('./errors');
const Requests = require('./requests');
const Response = require('./response');

class Exchange {
  /** The program's own object: it has the id, and hears the events. */
  client;
  /** True if the connection speaks version 2, as far as is known. */
  speaks2;
  /** A request was given up: an answer that nobody awaits is no fault of the server's. */
  forgets = false;
  requests = new Requests();
  /** By ack, what tells a responder that nobody awaits its answer; the server does so in version 2. */
  cancels = new Map();
  /** Streams of the messages: `push(message)`, `end()`. */
  streams = new Set();
  /** Those that have enough for now. */
  full = new Set();

  constructor(client) {
    this.client = client;
  }

  emit(...event) {
    this.client.emit(...event);
  }

  message(message, key, from) {
    const response = key === null ? null : new Response(this, key, text(key));
    for (const stream of this.streams) {
      stream.push({ message, from, response, answer: response?.send });
    }
    this.emit('message', message, response, from);
  }

  /** False for an answer that nobody awaits, and never did; `fault`: what is wrong with it, in version 1. */
  answer(key, from, message, fault) {
    const name = text(key);
    const entry = this.requests.get(name);
    if (entry?.deadline) {
      this.requests.delete(name);
      this.pace();
    }
    const answered = entry?.answered;
    if (typeof answered !== 'function') {
      // It may have crossed with what has ended its request.
      return this.forgets;
    }
    if (fault && entry.deadline) {
      this.misunderstood(fault);
    } else {
      answered(from, message);
    }
    return true;
  }

  refusal(key, from, error) {
    this.#fail(key, from, remote(error, from));
  }

  failed(key, id, code) {
    this.#fail(key, id, failure(code, id));
  }

  #fail(key, id, error) {
    this.requests.failed(text(key), id, error);
    this.pace();
  }

  receipt(reference, delivered, failed) {
    this.requests.get(reference)?.receipt?.(delivered, failed);
  }

  /** The server has refused a frame of ours. */
  complaint(code, message, reference, key) {
    const error = remote({ code, message });
    const entry = this.requests.take(reference ?? text(key));
    if (entry?.end) {
      entry.end(error);
    } else {
      this.pace();
      this.complained(error);
    }
  }

  cancelled(key) {
    const name = text(key);
    this.cancels.get(name)?.();
    this.cancels.delete(name);
    this.pace();
  }

  /** Nobody can be answered any more. */
  cancelAll() {
    for (const name of this.cancels.keys()) {
      this.cancelled(name);
    }
  }

  /** The server or we have sent what cannot be understood: the connection goes on. */
  misunderstood(error) {
    this.emit('error', error);
  }
}

module.exports = Exchange;
