'use strict';

// The part of a session that does not depend on its connection: delivers messages to the program, and answers and
// failures to the requests that wait for them.

const BoundedMap = require('./boundedMap');
const { coded, failure, remote } = require('./errors');
const { readMembers } = require('./incoming');
const Mailboxes = require('./mailboxes');
const Requests = require('./requests');
const Response = require('./response');
const Subscriptions = require('./subscriptions');
const timers = require('./timers');
const Watches = require('./watches');

/** Characters of incoming requests that are tracked so that `response.signal` can be aborted. Older ones are not. */
const MAX_TRACKED = 32 * 1024 * 1024;

/** Turns of the event loop for which a timer that has fired waits for events, at most. */
const MAX_TURNS = 100;
/** Turns for which one without an event counts: delivery may pause for a turn, so that one alone proves nothing. */
const QUIET_TURN = 25;

/** Number of events that have arrived, for all clients: the events of one may be behind those of others. */
let eventCount = 0;

class Messaging {
  /** The client of the program: it has the id, and emits the events. */
  client;
  /** True if the connection uses version 2 of the protocol, as far as is known. */
  usesVersion2;
  /** True once a request was given up: its answer may still arrive, and is no error of the broker. */
  ignoresStrayAnswers = false;
  /** Requests of this client that are pending. */
  requests = new Requests();
  /** Estimated bytes of heap that the answers of pending requests take. Counted by the transport of Node.js. */
  answersHeap = 0;
  /** By name of the ack, functions that abort `response.signal` of an incoming request (version 2). */
  cancelHandlers = new BoundedMap(MAX_TRACKED);
  /** Converts a value to JSON text. */
  toJsonText = JSON.stringify;
  /** Streams of messages: `pushMessage(message, size)`, `endStream()`. */
  messageStreams = new Set();
  /** Streams whose queue has reached its high-water mark, with the characters in the queue. */
  saturatedStreams = new Map();
  /** Called when an error of a peer has no `error` listener. */
  onUnheardError;
  /** Called with the name of the ack of an answer that no request has asked for. */
  onStrayAnswer;
  /** The handler that was set by `handle()`. */
  handler;
  /** The session at the broker that outlives a connection; undefined without one. */
  resumption;
  subscriptions = new Subscriptions(this);
  mailboxes = new Mailboxes(this);
  watches = new Watches(this);
  /** Number of errors caused by the broker or another client. */
  peerErrors = 0;

  /** Converts a value to JSON text. The error of a value that JSON cannot represent has a code. */
  toText(value) {
    try {
      return this.toJsonText(value);
    } catch (error) {
      // A `toJSON` may throw something that is not an object.
      Object(error).code ??= 'ERR_WSMB_MESSAGE';
      throw error;
    }
  }

  constructor(client) {
    this.client = client;
  }

  /** Called by the transport for each event. */
  countEvent() {
    eventCount += 1;
  }

  /**
   * Calls a function once no event that has arrived is left: after a blocked event loop, timers come first. Waits until
   * some turns of the event loop have brought no event.
   */
  whenQuiet(callback, turns = MAX_TURNS) {
    const before = eventCount;
    timers.afterEvents(() => {
      if (turns > 0) {
        this.whenQuiet(callback, turns - (before === eventCount ? QUIET_TURN : 1));
      } else {
        callback();
      }
    });
  }

  emit(...event) {
    this.client.emit(...event);
  }

  /** Called by the transport for each action of the broker, except `registered` and `received`. */
  countReceived(size) {
    // An error of a connection before its `registered` is of no session.
    if (this.isRegistered) {
      this.resumption?.countReceived(size);
    }
  }

  /** Handles a frame of the broker, an object with the members of the frame. */
  handleFrame(frame) {
    const values = readMembers(frame, this.usesVersion2);
    if (values) {
      this[frame.action](...values);
    } else if (values === false) {
      // If the frame belongs to a request, the error is its outcome.
      this.#onWrongMember(frame.ref ?? frame.ack);
    } else {
      this.reportPeerError(coded('ERR_WSMB_ACTION', 'unknown action'));
    }
  }

  /** A member of a frame has a wrong type. `key`: of the request to which the frame belongs, if there is one. */
  #onWrongMember(key) {
    const error = coded('ERR_WSMB_MEMBER', 'a frame member has a wrong type');
    if (!this.#failRequest(key, error)) {
      this.reportPeerError(error);
    }
  }

  // Handlers of actions, with the arguments that incoming.js lists.

  /**
   * `ack`: its JSON text, if the sender waits for an answer; `name`: the ack as a name; `size` of the frame; `topic`, if
   * it was sent to one: then it is for the subscriptions that match, of this `group`; `attempt`: see `Response`; `offset`,
   * if it is kept; `mailbox`, if it comes from one, and the `key` of its sender.
   */
  message(from, message, ack, name, size, topic, group, attempt, offset, mailbox, key) {
    if (mailbox != null && this.usesVersion2) {
      return this.mailboxes.onMessage({ from, message, mailbox, offset, attempt, key, topic });
    }
    const response = ack ? new Response(this, ack, name, attempt) : null;
    if (topic !== undefined && this.usesVersion2) {
      const item = { message, from, topic, response, answer: response?.send };
      if (offset != null) {
        item.offset = offset;
      }
      return this.#publication(item, size, group ?? undefined);
    }
    for (const stream of this.messageStreams) {
      stream.pushMessage({ message, from, response, answer: response?.send }, size);
    }
    this.emit('message', message, response, from);
  }

  /** Hands a message of a topic to the subscriptions; to the client if the broker has subscribed it. */
  #publication(item, size, group) {
    const { message, from, topic, response, offset } = item;
    const deliver = (subscription, finish) => {
      const { messageStreams } = subscription;
      for (const stream of messageStreams) {
        stream.pushMessage(item, size, finish);
      }
      try {
        subscription.emit('message', message, response, from, topic, offset);
      } finally {
        if (messageStreams.size === 0) {
          finish?.();
        }
      }
    };
    if (!this.subscriptions.forEach(topic, group, deliver, offset)) {
      this.emit('message', message, response, from, topic);
    }
  }

  subscribed(topic, number, ...values) {
    const [, epoch, , , , mailbox, waiting] = values;
    if (mailbox != null) {
      this.mailboxes.onOpened(mailbox, number, epoch, waiting);
    } else if (topic != null) {
      this.subscriptions.onSubscribed(topic, number, ...values);
    } else {
      this.#onWrongMember();
    }
  }

  history(reference, ...values) {
    this.requests.get(reference)?.onHistory?.(...values);
  }

  unsubscribed(topic, number, code, group, mailbox) {
    if (mailbox != null) {
      this.mailboxes.onClosed(mailbox, number, code);
    } else if (topic != null) {
      this.subscriptions.onUnsubscribed(topic, number, code, group);
    } else {
      this.#onWrongMember();
    }
  }

  /** The state follows in `presence`. */
  watched() {}

  unwatched(...values) {
    this.watches.onUnwatched(...values);
  }

  presence(topic, ...values) {
    this.watches.onPresence(topic ?? undefined, ...values);
  }

  /** The client was too slow for messages of a topic; of several if it is `'>'`. `lost`: null if it is not known. */
  gap(topic, lost = null) {
    this.subscriptions.forEach(topic, undefined, (each) => each.emit('gap', { topic, lost }));
  }

  answer(name, from, message, error) {
    const entry = this.requests.get(name);
    if (error && this.usesVersion2) {
      this.#failReceiver(name, from, remote(error, from));
    } else if (entry?.onAnswer) {
      entry.onAnswer(from, message);
    } else {
      this.requests.delete(name);
      this.updateFlowControl();
      if (entry) {
        this.requests.runCallback(entry, from, message);
      } else if (!this.ignoresStrayAnswers) {
        this.onStrayAnswer?.(name);
      }
    }
  }

  failed(name, id, code) {
    this.#failReceiver(name, id, failure(code, id));
  }

  #failReceiver(name, id, error) {
    this.requests.failReceiver(name, id, error);
    this.updateFlowControl();
  }

  receipt(reference, delivered, failed, ...numbers) {
    this.requests.get(reference)?.onReceipt?.(delivered ?? [], failed ?? {}, ...numbers);
  }

  /** The broker has rejected a frame of this client. */
  error(reference, name, code, message) {
    const error = remote({ code, message });
    if (
      !this.#failRequest(reference ?? name, error) &&
      !this.subscriptions.onRefused(reference, error) &&
      !this.watches.onRefused(reference, error) &&
      !this.mailboxes.onRefused(reference, error)
    ) {
      this.onRefusal(error);
    }
  }

  /** The broker has received so many actions of this session. */
  received(count) {
    this.resumption?.confirmSent(count);
  }

  cancel(name) {
    this.cancelHandlers.get(name)?.();
    this.cancelHandlers.delete(name);
    this.updateFlowControl();
  }

  /** Cancels all incoming requests: their answers cannot be delivered any more. */
  cancelAll() {
    for (const name of this.cancelHandlers.keys()) {
      this.cancel(name);
    }
  }

  /** Fails the request with this key. Returns a false value if there is none that can fail. */
  #failRequest(key, error) {
    const entry = this.requests.get(key);
    this.requests.delete(key);
    this.updateFlowControl();
    entry?.fail?.(error);
    return entry?.fail;
  }

  /**
   * Handles an error of a handler. If a sender waits for an answer, its request is refused. Unless the handler gave the
   * error a code, it is a mistake of the program, and reported to it, too. It does not end the process: any peer could.
   */
  reportHandlerError(error, response) {
    if (this.state === 'closed') {
      return;
    }
    let isRefused = false;
    try {
      response?.reject(error);
      isRefused = Boolean(response);
    } catch {
      // The connection has ended, or the protocol has no refusals.
    }
    if (!isRefused || typeof error?.code !== 'string') {
      this.emitError(error);
    }
  }

  /**
   * Reports an error caused by the broker or another client. The connection stays open. Without an `error` listener
   * the error is counted, and not thrown: a peer must not be able to end the process.
   */
  reportPeerError(error) {
    this.peerErrors += 1;
    this.emitError(error);
  }

  emitError(error) {
    if (this.client.listenerCount('error') > 0) {
      this.emit('error', error);
    } else {
      this.onUnheardError?.();
    }
  }
}

module.exports = Messaging;
