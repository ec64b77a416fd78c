'use strict';

// What goes between a client and others, whatever connection carries it: messages, what becomes of requests,
// and what the program is told of them. The types of all members that come from the wire are checked here: a
// frame with a wrong one is an error, and nothing of it is converted.

const Bounded = require('../bounded');
const { coded, failure, remote } = require('./errors');
const Requests = require('./requests');
const Response = require('./response');

/** Characters of the requests to be answered of which the end is known: others do not abort `response.signal`. */
const MOST_ACKS = 32 * 1024 * 1024;

/**
 * The members of each action of a server, in the order of the arguments of our method of its name. Behind the colon,
 * the kinds of value that a member may be; without one, it may be anything.
 */
const MEMBERS = read({
  registered: 'protocol',
  // Its id goes to the program as it came.
  unregistered: 'id code:su',
  // An id may be a number: servers of version 1 send it as it was registered. Of the ack there is the text, too.
  message: 'from:snu message text:su ack size',
  answer: 'ack from:snu message error',
});

/** The same, of version 2. */
const MEMBERS_2 = read({
  receipt: 'ref:sn delivered:lu failed:mu',
  failed: 'ack:s dest:s code:s',
  error: 'ref:snu ack:su code:s message:su',
  cancel: 'ack:s',
  goaway: 'within:n',
});

/** By action, `[name, kinds]` of each member. */
function read(actions) {
  const members = (text) => text.split(' ').map((member) => member.split(':'));
  return new Map(Object.entries(actions).map(([action, text]) => [action, members(text)]));
}

/** What kind of value it is: the first letter of its type; an array, or an object, of strings: l or m; null: u. */
function kind(value) {
  if (Object(value) !== value) {
    return (typeof (value ?? undefined))[0];
  }
  const isPlain = Object.values(value).every((item) => typeof item === 'string');
  return isPlain && (Array.isArray(value) ? 'l' : 'm');
}

class Exchange {
  /** The program's own object: it has the id, and hears the events. */
  client;
  /** True if the connection speaks version 2, as far as is known. */
  speaks2;
  /** A request was given up: an answer that nobody awaits is no fault of the server's. */
  forgets = false;
  requests = new Requests();
  /** By ack, what tells a responder that nobody awaits its answer; the server does so in version 2. */
  cancels = new Bounded(MOST_ACKS);
  /** A value as JSON. */
  toText = JSON.stringify;
  /** Streams of the messages: `push(message, size)`, `end()`. */
  streams = new Set();
  /** Those that have enough for now. */
  full = new Set();
  /** `unheard()`: an error has no listener. */
  unheard;
  /** `stray(name)`: an answer has come that nobody awaits, and never did. */
  stray;
  /** Errors that the server, or another client, has caused so far. */
  peerErrors = 0;

  constructor(client) {
    this.client = client;
  }

  emit(...event) {
    this.client.emit(...event);
  }

  /** The server has sent a frame: its members by their names. */
  hear(frame) {
    const { action, ref, ack } = frame;
    const members = MEMBERS.get(action) ?? (this.speaks2 && MEMBERS_2.get(action));
    if (!members) {
      this.misunderstood(coded('ERR_WSMB_ACTION', 'unknown action'));
      return;
    }
    let isRight = true;
    const values = members.map(([name, kinds]) => {
      isRight &&= !kinds || kinds.includes(kind(frame[name]));
      return frame[name];
    });
    if (isRight) {
      this[action](...values);
    } else {
      this.malformed(ref ?? ack);
    }
  }

  /** `ack`: its JSON text, if an answer is wanted; `name`: the same as a name; `size`: characters of it all. */
  message(from, message, ack, name, size) {
    const response = ack ? new Response(this, ack, name) : null;
    for (const stream of this.streams) {
      stream.push({ message, from, response, answer: response?.send }, size);
    }
    this.emit('message', message, response, from);
  }

  answer(name, from, message, error) {
    if (error && this.speaks2) {
      this.#fail(name, from, remote(error, from));
      return;
    }
    const entry = this.requests.get(name);
    if (entry?.deadline) {
      this.requests.delete(name);
      this.pace();
    }
    const answered = entry?.answered;
    if (typeof answered !== 'function') {
      // It may have crossed with what has ended its request.
      if (!this.forgets) {
        this.stray?.(name);
      }
    } else {
      answered(from, message);
    }
  }

  failed(name, id, code) {
    this.#fail(name, id, failure(code, id));
  }

  #fail(name, id, error) {
    this.requests.failed(name, id, error);
    this.pace();
  }

  receipt(reference, delivered, failed) {
    this.requests.get(reference)?.receipt?.(delivered ?? [], failed ?? {});
  }

  /** The server has refused a frame of ours. */
  error(reference, name, code, message) {
    const error = remote({ code, message });
    if (!this.#ends(reference ?? name, error)) {
      this.complained(error);
    }
  }

  /** A frame has a member of a wrong type: what waits under this key fails, or the program hears of it. */
  malformed(key) {
    const error = coded('ERR_WSMB_MEMBER', 'a member of a frame has a wrong type');
    if (!this.#ends(key, error)) {
      this.misunderstood(error);
    }
  }

  /** Ends what waits under this key; false if nobody is told by that. */
  #ends(key, error) {
    const end = this.requests.take(key)?.end;
    this.pace();
    end?.(error);
    return end;
  }

  cancel(name) {
    this.cancels.get(name)?.();
    this.cancels.delete(name);
    this.pace();
  }

  /** Nobody can be answered any more. */
  cancelAll() {
    for (const name of this.cancels.keys()) {
      this.cancel(name);
    }
  }

  /**
   * The server, or another client, has sent what cannot be understood: the connection goes on. So does a program
   * that does not listen: what a peer sends must not end it.
   */
  misunderstood(error) {
    this.peerErrors += 1;
    if (this.client.listenerCount('error') > 0) {
      this.emit('error', error);
    } else {
      this.unheard?.();
    }
  }
}

module.exports = Exchange;
