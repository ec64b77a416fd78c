'use strict';

// One connection of a client in Node.js. The transport collects the frames of a tick, passes them to the addon when
// the tick ends, and passes the events of the addon to the session.

const v8 = require('node:v8');
const Response = require('../client/response');
const { addCreation } = require('./callerStack');
const { coded, systemError } = require('../errors');
const eventHub = require('../eventHub');
const { ClientEventKind, NativeClient } = require('../native');

// As it is when this module is loaded: a test framework may replace it later.
const { nextTick } = process;

/** Characters after which the frames of a tick are passed to the addon before the tick ends. */
const MAX_COLLECTED = 64 * 1024;
/** This limit for urgent frames, which applies once per tick: other threads handle them while the tick continues. */
const MAX_COLLECTED_URGENT = 4 * 1024;

/**
 * Characters in the queue of a stream above which reading stops even if an answer is awaited: parsed, they take up to
 * 60 bytes each, and thus a quarter of the heap at most.
 */
const MAX_STREAM_SIZE = v8.getHeapStatistics().heap_size_limit / 256;

/** Estimated bytes of heap that the answers of all pending `requestAll` may take together. */
const MAX_ANSWERS_HEAP = v8.getHeapStatistics().heap_size_limit / 3;
/** An answer without an estimate has at most this many characters, */
const SMALL_ANSWER = 1024;
/** and each of them takes at most this many bytes of heap, if it is JSON. */
const HEAP_PER_CHARACTER = 60;

/** The end of a frame: a character that JSON text never contains. Line ends may occur in the acks of others. */
const END = '\x1e';

/** The error of an incomplete answer, with the text of version 1. */
const incompleteAnswer = () =>
  coded(
    'ERR_WSMB_ANSWER',
    'Unable to parse "answer" message (msg.from or msg.message are undefined)',
  );

/** The error of an answer that no request waits for, with the text of version 1. */
function unknownAck(id, key) {
  const message = `Unable to find callback method for ${id} and ack = ${key}`;
  return coded('ERR_WSMB_UNKNOWN_ACK', message);
}

/** The error of an answer that was dropped because of the size of the other answers. */
const tooMany = () =>
  coded('ERR_WSMB_MAX_PAYLOAD', 'dropped an answer: all answers together need too much heap');

/** The error of a message or answer that was dropped because of its size. */
function tooLarge(what, size) {
  const limits = 'larger than "clientMaxPayload" or the JavaScript heap allows';
  return coded('ERR_WSMB_MAX_PAYLOAD', `dropped ${what} of ${size} bytes: ${limits}`);
}

let hasWarned = false;

/** Emits one warning per process. It contains no text of the peer, which may be directed at the reader. */
function warnUnheard() {
  if (!hasWarned) {
    hasWarned = true;
    const message = "an error caused by a peer was dropped: add an 'error' listener to the client";
    process.emitWarning(message, { code: 'WSMB_PEER_ERROR' });
  }
}

/** The JSON text and the name of an ack, as the addon passes them. */
function parseAck(ack) {
  if (ack === null) {
    return NO_ACK;
  }
  return Array.isArray(ack) ? ack : [`"${ack}"`, ack];
}

/** The text and name of the ack of a message whose sender waits for no answer. */
const NO_ACK = [undefined, undefined];

class Transport {
  /** True if the transport queues frames that are sent before the connection is open: there is one attempt. */
  acceptsEarlyFrames;
  #session;
  #target;
  #token;
  #native = null;
  #number;
  /** The frames of this tick, each followed by `END`. */
  #collected = '';
  /** True if urgent frames of this tick were passed to the addon. */
  #hasSentUrgent = false;
  /** Bytes queued in the addon when the transport last asked. */
  #queuedInAddon = 0;
  #isPaused = false;
  #isClosing = false;
  /** True if no `'close'` event is emitted, as for some connections of version 1. */
  #isSilent = false;
  /** True if another attempt would fail, too. */
  #isFinal = false;

  /** `target`: host, port, path and options. */
  constructor(session, target, token) {
    this.#session = session;
    this.#target = target;
    this.#token = token;
    this.#number = eventHub.add(this);
    this.acceptsEarlyFrames = target.isOnly && !session.settings.reconnect;
    session.onUnheardError = warnUnheard;
    session.onStrayAnswer = (key) => session.reportPeerError(unknownAck(session.client.id, key));
    // The program can add listeners, or close the client, before the current tick ends.
    nextTick(() => this.#connect());
  }

  #connect() {
    if (this.#isClosing) {
      eventHub.remove(this.#number);
      this.#session.onTransportClose(undefined);
      return;
    }
    const { host, port, path, native, join } = this.#target;
    if (!join && (!Number.isInteger(port) || port < 0 || port > 65_535)) {
      this.#fail(coded('ERR_SOCKET_BAD_PORT', badPort(port)), true);
      return;
    }
    let id;
    try {
      id = this.#session.idText();
    } catch (error) {
      // JSON cannot represent the id.
      this.#fail(error, true);
      return;
    }
    try {
      const address = join ? { host: '', port: 0, path: '/' } : { host, port, path };
      const protocol = this.#session.offersVersion2 ? 2 : 1;
      const session = this.#session.sessionRequest();
      const options = { ...native, ...address, id, protocol, token: this.#token, session };
      this.#native = join
        ? join(this.#number, options)
        : new NativeClient(eventHub.hub, this.#number, options);
    } catch (error) {
      if (join && error.code === 'ERR_WSMB_NOT_OPEN') {
        // The server was closed before its own client has connected.
        eventHub.remove(this.#number);
        this.#session.onTransportClose(undefined);
        return;
      }
      // A file of `tls` has changed since the constructor checked it, or threads cannot be started.
      this.#fail(error, false);
      return;
    }
    this.flush();
  }

  /** Handles a failure before there is a connection. `isFinal`: another attempt would fail, too. */
  #fail(error, isFinal) {
    eventHub.remove(this.#number);
    this.#session.onTransportFailure(1006, error, isFinal);
  }

  /** Connections of a client share its context. */
  get context() {
    return this.#session.context;
  }

  /** Approximate bytes that are not yet written. Without `isExact` the addon is not called: perhaps fewer are left. */
  countBuffered(isExact) {
    const inAddon = isExact && this.#native ? this.#native.bufferedAmount() : this.#queuedInAddon;
    return inAddon + this.#collected.length;
  }

  /** Collects a frame. `isUrgent`: a peer or the program waits for its effect. */
  sendFrame(frame, isUrgent) {
    if (frame.length > MAX_COLLECTED) {
      // Joining a large frame with others would only copy it.
      this.#passCollected();
      this.#pass(frame);
      return;
    }
    this.#collected += frame + END;
    eventHub.flushAtTickEnd(this);
    const { length } = this.#collected;
    const sendsUrgent = isUrgent && !this.#hasSentUrgent && length > MAX_COLLECTED_URGENT;
    if (sendsUrgent || length > MAX_COLLECTED) {
      this.#hasSentUrgent = true;
      this.#passCollected();
    }
  }

  /** Requests a call of `onTransportDrain`. */
  requestDrain() {
    eventHub.flushAtTickEnd(this);
  }

  /** Passes the collected frames to the addon. Called at the end of a tick. */
  flush() {
    this.#hasSentUrgent = false;
    this.#passCollected();
    this.#checkDrain();
  }

  #checkDrain() {
    if (this.#session.needsDrain) {
      if (this.#queuedInAddon > 0) {
        this.#native?.requestDrain();
      } else {
        nextTick(() => this.#drain());
      }
    }
  }

  #passCollected() {
    if (this.#native !== null && this.#collected !== '') {
      const frames = this.#collected;
      this.#collected = '';
      this.#pass(frames);
    }
  }

  #pass(frames) {
    if (this.#native === null) {
      this.#collected += frames + END;
      return;
    }
    try {
      this.#queuedInAddon = this.#native.send(frames);
    } catch (error) {
      // After the end of the connection its `Closed` event follows.
      if (error.code !== 'ERR_WSMB_NOT_OPEN') {
        throw error;
      }
    }
  }

  /** Reports that everything was written. Frames collected meanwhile request another drain when they are passed. */
  #drain() {
    if (this.#collected === '' && this.#queuedInAddon === 0) {
      this.#session.onTransportDrain();
    }
  }

  /**
   * Stops reading from the socket while a stream is saturated, or resumes it. While a request is pending (not
   * `isIdle`) a stream may grow further, since the answer may be behind many messages.
   */
  updateReading(isReady, isIdle) {
    let isFull = false;
    for (const size of this.#session.saturatedStreams.values()) {
      isFull ||= isIdle || size > MAX_STREAM_SIZE;
    }
    const isPaused = isReady && isFull;
    if (isPaused !== this.#isPaused && this.#native !== null) {
      this.#isPaused = isPaused;
      this.#native.pauseReading(isPaused);
    }
  }

  /** Called when the process exits: waits a moment until the last frames are written. */
  linger() {
    this.#native?.linger();
  }

  close() {
    if (!this.#isClosing) {
      this.flush();
      this.#isClosing = true;
      this.#native?.close();
    }
  }

  /** Handles an event of the addon. */
  receive(event) {
    const session = this.#session;
    session.countEvent();
    if (session.resumption && IS_ACTION[event[0]]) {
      session.countReceived(eventHub.eventSize());
    }
    HANDLERS[event[0]].call(this, event);
  }

  /** Handles events that cannot be parsed. */
  receiveInvalid({ message }) {
    this.#session.countReceived(eventHub.eventSize());
    this.#session.reportPeerError(coded('ERR_WSMB_JSON', message));
  }

  // The handlers of events: `on` and the name of a `ClientEventKind`, where src/node/client.rs lists the arguments.

  onOpen() {
    this.#session.onTransportOpen();
  }

  onRegistered([, protocol, session]) {
    this.#session.handleFrame({ action: 'registered', protocol, session });
    // Programs that await `connected()` can add listeners before the next message is delivered.
    eventHub.yieldToPromises();
  }

  onUnregistered([, id, code]) {
    this.#session.handleFrame({ action: 'unregistered', id, code });
  }

  /** Most messages have a valid sender, and need no check by `handleFrame`. */
  onMessage([, ack, from, message]) {
    const session = this.#session;
    const [text, name] = parseAck(ack);
    const size = eventHub.eventSize();
    if (typeof from === 'string') {
      session.message(from, message, text, name, size);
    } else {
      session.handleFrame({
        action: 'message',
        from: from ?? undefined,
        message,
        text,
        ack: name,
        size,
      });
    }
  }

  onPublication([, ack, from, message, topic, group, attempt, offset]) {
    const [text, name] = parseAck(ack);
    const size = eventHub.eventSize();
    this.#session.handleFrame({
      action: 'message',
      from: from ?? undefined,
      message,
      text,
      ack: name,
      size,
      topic,
      group,
      attempt,
      offset,
    });
  }

  onMail([, sender, message, mailbox, offset, attempt, key, topic]) {
    const [action, from] = ['message', sender ?? undefined];
    const frame = { action, from, message, mailbox, offset, attempt, key, topic };
    this.#session.handleFrame(frame);
  }

  onAnswer(event) {
    const session = this.#session;
    const [, ack, from, message, , heap] = event;
    let error = event[4];
    // In version 1 an answer must have both members.
    const isComplete = event.length > 3 && from !== null;
    const request = session.requests.get(ack);
    if (request?.isSingle === false && !this.#holdAnswer(request, heap)) {
      error = tooMany();
    }
    if (!isComplete && request?.deadline) {
      session.requests.delete(ack);
      session.updateFlowControl();
      session.reportPeerError(incompleteAnswer());
    } else if (typeof from === 'string') {
      session.answer(ack, from, message, error);
    } else {
      session.handleFrame({ action: 'answer', ack, from: from ?? undefined, message, error });
    }
  }

  /**
   * Counts the heap that an answer of a request for several answers takes until the request ends. `heap`: the estimate
   * of the addon, undefined for a small answer. Returns false if there is not enough heap.
   */
  #holdAnswer(request, heap) {
    const session = this.#session;
    const held = heap ?? Math.min(eventHub.eventSize(), SMALL_ANSWER) * HEAP_PER_CHARACTER;
    if (session.answersHeap + held > MAX_ANSWERS_HEAP) {
      return false;
    }
    session.answersHeap += held;
    request.answersHeap += held;
    return true;
  }

  onRefused([, code, text]) {
    this.#session.reportPeerError(coded(code, text));
  }

  onError([, code, message, syscall, target, failures]) {
    const session = this.#session;
    if (code === 'ERR_WSMB_SERVER_KEY' && !session.isStrict) {
      // The peer is no WebSocket server. Version 1 emits a text as error, and no `'close'`.
      this.#isSilent = true;
      session.onTransportError(message);
      return;
    }
    this.#isFinal = code === 'ERR_WSMB_ADDRESS';
    const error = connectionError(code, message, syscall, target, failures);
    if (session.client.listenerCount('error') === 0) {
      // It may end the process.
      addCreation(error, 'The client', session.creation);
    }
    session.onTransportError(error);
  }

  onDrain() {
    // Frames may have been passed to the addon since this event was created.
    this.#queuedInAddon = this.#native.bufferedAmount();
    this.#checkDrain();
  }

  onClosed([, code, reason]) {
    this.#isClosing = true;
    eventHub.remove(this.#number);
    this.#session.onTransportClose(code, reason, this.#isFinal, this.#isSilent);
  }

  onReceipt([, ref, delivered, failed]) {
    this.#session.handleFrame({ action: 'receipt', ref, delivered, failed });
  }

  onPublishReceipt([, ref, queued, dropped, elsewhere, offset, stored, mailboxes, failed]) {
    const numbers = { queued, dropped, elsewhere, offset, stored };
    this.#session.handleFrame({ action: 'receipt', ref, ...numbers, mailboxes, failed });
  }

  onMailboxReceipt([, ref, mailboxes, failed, duplicates]) {
    this.#session.handleFrame({ action: 'receipt', ref, mailboxes, failed, duplicates });
  }

  onMailboxOpened([, mailbox, ref, epoch, waiting]) {
    this.#session.handleFrame({ action: 'subscribed', mailbox, ref, epoch, waiting });
    eventHub.yieldToPromises();
  }

  onMailboxClosed([, mailbox, ref, code]) {
    this.#session.handleFrame({ action: 'unsubscribed', mailbox, ref, code });
  }

  onHistory([, ref, messages, epoch, offset, more]) {
    this.#session.handleFrame({ action: 'history', ref, messages, epoch, offset, more });
  }

  onSubscribed([, topic, ref, offset, epoch, recovered, lost, replay]) {
    const action = 'subscribed';
    this.#session.handleFrame({ action, topic, ref, offset, epoch, recovered, lost, replay });
    // Programs that await `subscribe()` can add listeners before the next message is delivered.
    eventHub.yieldToPromises();
  }

  onUnsubscribed([, topic, ref, code, group]) {
    this.#session.handleFrame({ action: 'unsubscribed', topic, ref, code, group });
  }

  onWatched([, ref]) {
    this.#session.handleFrame({ action: 'watched', ref });
  }

  onUnwatched([, ref, topic, ids, code]) {
    this.#session.handleFrame({ action: 'unwatched', ref, topic, ids, code });
  }

  onPresence([, topic, count, members, joined, left]) {
    this.#session.handleFrame({ action: 'presence', topic, count, members, joined, left });
  }

  onOnline([, online, offline]) {
    this.#session.handleFrame({ action: 'presence', online, offline });
  }

  onGap([, topic, lost]) {
    this.#session.handleFrame({ action: 'gap', topic, lost });
  }

  onFailed([, ack, dest, code]) {
    this.#session.handleFrame({ action: 'failed', ack, dest, code });
  }

  onActionFailed([, code, message, ref, ack]) {
    this.#session.handleFrame({ action: 'error', code, message, ref, ack });
  }

  onCancel([, ack]) {
    this.#session.handleFrame({ action: 'cancel', ack });
  }

  onReceived([, count]) {
    this.#session.handleFrame({ action: 'received', count });
  }

  onGoAway([, within]) {
    this.#session.handleFrame({ action: 'goaway', within });
  }

  /** Rejects a request that was too large. */
  onMessageTooLarge([, ack, , size]) {
    const session = this.#session;
    const error = tooLarge('a message', size);
    if (ack !== null && session.usesVersion2) {
      try {
        new Response(session, ...parseAck(ack)).reject(error);
      } catch {
        // The client is closing, or its send queue is full.
      }
    }
    session.reportPeerError(error);
  }

  onAnswerTooLarge([, ack, from, size]) {
    const error = tooLarge('an answer', size);
    this.#session.handleFrame({ action: 'answer', ack, from: from ?? undefined, error });
  }
}

/** By the number of a kind, the method that handles its events. */
const HANDLERS = eventHub.handlersOf(ClientEventKind, Transport.prototype);

/** The kinds of events that are no action of the broker, or belong to the connection (rule 40.2). */
const NO_ACTIONS = ['Open', 'Registered', 'Received', 'Error', 'Drain', 'Closed'];
/** By the number of a kind, whether a session counts it. */
const IS_ACTION = HANDLERS.map((_, kind) =>
  NO_ACTIONS.every((name) => ClientEventKind[name] !== kind),
);

/** The error of a connection. `failures`: the code and target of each address that was tried, if several were. */
function connectionError(code, message, syscall, target, failures) {
  if (failures) {
    const errors = failures.map(([code, target]) => connectionError(code, '', syscall, target));
    const error = new AggregateError(errors, message);
    return Object.assign(error, { code, syscall, hostname: target });
  }
  if (syscall) {
    const [, address, port] = /^(.*):(\d+)$/.exec(target) ?? [null, target];
    return systemError(code, syscall, address.replace(/^\[|\]$/g, ''), port && Number(port));
  }
  return coded(code, message);
}

const badPort = (port) => `port is ${port}, expected an integer from 0 to 65535`;

module.exports = Transport;
