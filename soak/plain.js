'use strict';

// A client over a Wire, with the face of ours: traffic need not know which of the two it has.

const { EventEmitter } = require('node:events');
const { Wire, request } = require('./wire');

class Plain extends EventEmitter {
  #callbacks = new Map();
  #acks = 0;

  /** `place`: where the server is (see World). */
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
      this.wire.tell({ action: 'send', message, dest });
      return;
    }
    this.#acks += 1;
    const ack = `${this.id}:${this.#acks}`;
    this.#callbacks.set(ack, callback);
    this.wire.tell({ action: 'send', message, dest, ack });
  }

  register(token) {
    this.wire.tell({ action: 'register', id: this.id, token });
  }

  unregister() {
    this.wire.tell({ action: 'unregister' });
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
        const send = (answer) => this.wire.tell({ action: 'answer', ack, message: answer });
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
