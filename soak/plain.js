'use strict';

// A client over a Wire with the interface of our client, so that traffic works with both.

const { EventEmitter } = require('node:events');
const { Wire, request } = require('./wire');

class Plain extends EventEmitter {
  #callbacks = new Map();
  #acks = 0;

  /** `place`: the address of the server (see World). */
  constructor(id, place, token) {
    super();
    this.id = id;
    this.wire = new Wire(place);
    this.wire.write(request());
    this.register(token);
    this.wire.on('action', (action) => this.#hear(action));
    this.wire.once('end', (code) => this.emit('close', code));
  }

  send(message, dest, callback) {
    if (!callback) {
      this.wire.send({ action: 'send', message, dest });
      return;
    }
    this.#acks += 1;
    const ack = `${this.id}:${this.#acks}`;
    this.#callbacks.set(ack, callback);
    this.wire.send({ action: 'send', message, dest, ack });
  }

  register(token) {
    this.wire.send({ action: 'register', id: this.id, token });
  }

  unregister() {
    this.wire.send({ action: 'unregister' });
  }

  close() {
    return this.wire.close();
  }

  #hear({ action, message, ack, from, id }) {
    switch (action) {
      case 'registered':
        this.emit('registered');
        break;
      case 'unregistered':
        this.emit('unregistered', id);
        break;
      case 'message': {
        const send = (answer) => this.wire.send({ action: 'answer', ack, message: answer });
        this.emit('message', message, ack === undefined ? null : { send }, from);
        break;
      }
      case 'answer': {
        const callback = this.#callbacks.get(ack);
        if (!callback) throw new Error(`a second answer, or one to nobody: ${ack}`);
        this.#callbacks.delete(ack);
        callback(from, message);
        break;
      }
      default:
        throw new Error(`an unknown action: ${action}`);
    }
  }
}

module.exports = Plain;
