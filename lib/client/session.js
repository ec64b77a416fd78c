'use strict';

// The state of a client across its connections: send queue, registration, reconnection and close. A transport (the
// addon's, or a browser's WebSocket) is one connection: it sends frames, and calls the `onTransport` methods.

const { aborted, coded } = require('./errors');
const frames = require('./frames');
const Messaging = require('./messaging');
const { MAX_TIMER } = require('./pendingRequest');
const SendQueue = require('./sendQueue');

/** The defaults of the option `reconnect`, in milliseconds. The number of attempts is not limited. */
const RECONNECT = {
  minDelay: 500,
  maxDelay: 30_000,
  factor: 2,
  jitter: 1,
};
/** Time to wait for the confirmation of `unregister` before a draining broker is left, in milliseconds. */
const UNREGISTER_TIMEOUT = 1000;

/** Close codes (going away, connection lost, restart) after which requests are sent again. */
const RESENDABLE = [1001, 1006, 1012];

const notNegotiated = () =>
  coded('ERR_WSMB_NOT_NEGOTIATED', 'requires protocol 2 in client and broker');

class Session extends Messaging {
  #reconnect;
  /** `connect(session, token)` creates a transport. */
  #connect;
  #transport;
  /** True while frames are passed to the transport. Otherwise they are queued. */
  #isReady = false;
  #isReplaced = false;
  /** True once the connection was open: later errors are caused by the broker. */
  #wasOpen = false;
  #isClosing = false;
  #isEnded = false;
  /**
   * True while the client leaves a draining broker: as soon as no request is pending in either direction, it gives
   * up the id, answers the requests that arrived before that, and closes the connection.
   */
  #isLeaving = false;
  /** Number of connections lost or failed since the last registration. */
  #attempts = 0;
  #timer;
  /** The close code of the last connection. */
  #code;
  /** Callers of `connected()` that wait for the registration: `{ resolve, reject }`. */
  #waiters = [];
  #resolveEnd;
  #end = new Promise((resolve) => {
    this.#resolveEnd = resolve;
  });

  /** Frames that wait for a connection. */
  sendQueue = new SendQueue();
  isRegistered = false;
  /** True after the id was given up or taken over: requests would get no answer. */
  hasLostId = false;
  /** The reason why there is no connection, if known. */
  lastError;
  /** True if a `'drain'` event must follow. */
  needsDrain = false;

  /** `settings`: all options, with their defaults; `ack()` creates an ack. */
  constructor(client, settings, ack, connect) {
    super(client);
    this.settings = settings;
    this.ack = ack;
    this.#connect = connect;
    this.#reconnect = settings.reconnect && { ...RECONNECT, ...Object(settings.reconnect) };
    this.resendsRequests = this.#reconnect && settings.resend === 'requests';
    const { id } = client;
    if (settings.protocol === 2 && !((typeof id === 'string' || Number.isFinite(id)) && id)) {
      throw coded('ERR_WSMB_ID', `id is ${String(id)}, expected a string`, TypeError);
    }
    this.#dial();
    const { signal } = settings;
    const abort = () => this.close(aborted(signal));
    if (signal?.aborted) {
      abort();
    }
    signal?.addEventListener('abort', abort);
    this.#end.then(() => signal?.removeEventListener('abort', abort));
  }

  #dial() {
    const { protocol, token } = this.settings;
    this.#wasOpen = false;
    this.usesVersion2 = protocol === 2;
    const connect = (currentToken) => {
      if (!this.#isClosing) {
        this.#transport = this.#connect(this, currentToken);
        if (!this.#reconnect && this.#transport.acceptsEarlyFrames) {
          // Without reconnection the transport itself can queue early frames.
          this.#flush();
        }
      }
    };
    if (typeof token !== 'function') {
      connect(token);
      return;
    }
    const fail = (error) => {
      if (!this.#isClosing) {
        this.onTransportFailure(1006, error);
      }
    };
    // `setTimeout`, so that an error thrown by a listener is an uncaught exception, and not a rejection.
    new Promise((resolve) => resolve(token()))
      .then(connect)
      .catch((error) => setTimeout(fail, 0, error));
  }

  /** Registers again, with another token. */
  register(token) {
    this.assertOpen();
    if (typeof this.settings.token !== 'function') {
      this.settings.token = token;
    }
    this.sendFrame(frames.register(this.idText(), JSON.stringify(token), this.settings.protocol));
  }

  idText() {
    return JSON.stringify(this.client.id);
  }

  get bufferedAmount() {
    return this.sendQueue.characters + (this.#transport?.bufferedAmount ?? 0);
  }

  /** A cheaper `bufferedAmount` that may be too large: bytes may have been written since the last send. */
  get #knownBufferedAmount() {
    return this.sendQueue.characters + (this.#transport?.knownBufferedAmount ?? 0);
  }

  assertOpen() {
    if (this.#isClosing) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
  }

  assertVersion2() {
    if (!this.usesVersion2) {
      throw notNegotiated();
    }
  }

  /**
   * Sends or queues a frame. Returns false above the high-water mark; a `'drain'` event follows.
   *
   * `isUrgent`: a peer or the program waits for its effect; `entry`: the entry of a request.
   */
  sendFrame(frame, isUrgent, entry) {
    const { maxQueued, highWaterMark } = this.settings;
    const limit = maxQueued - frame.length;
    if (this.#knownBufferedAmount > limit && this.bufferedAmount > limit) {
      const message = `more than ${maxQueued} bytes queued (maxQueued): await 'drain'`;
      throw coded('ERR_WSMB_MAX_QUEUED', message);
    }
    // While leaving, only answers are sent to the draining broker. Requests have an entry.
    if (this.#isReady || (this.#isLeaving && isUrgent && !entry)) {
      this.#transport.sendFrame(frame, isUrgent);
    } else {
      this.sendQueue.addFrame(frame, entry);
    }
    const isBelow = this.#knownBufferedAmount < highWaterMark;
    if (!isBelow) {
      this.needsDrain = true;
      this.#transport?.requestDrain();
    }
    return isBelow;
  }

  /** Sends a request. If that throws, its promise rejects; without one (a callback) the error is thrown. */
  sendRequest(frame, entry) {
    this.updateFlowControl();
    try {
      return this.sendFrame(frame, true, entry);
    } catch (error) {
      this.requests.failMatching(error, (each) => each === entry, true);
      if (!entry.fail) {
        throw error;
      }
    }
  }

  /** Passes queued frames, and all further ones, to the transport. */
  #flush() {
    this.#isReady = true;
    this.sendQueue.drainTo(this.#transport);
    if (this.needsDrain) {
      this.#transport.requestDrain();
    }
  }

  /** Resolves when the client is registered. Rejects when the client has ended. */
  connected() {
    return new Promise((resolve, reject) => {
      if (this.isRegistered) {
        resolve(this.client);
      } else if (this.#isEnded) {
        reject(this.#reason());
      } else {
        this.#waiters.push({ resolve, reject });
      }
    });
  }

  /** Closes the client. `reason`: the error with which pending requests fail. */
  close(reason) {
    if (!this.#isClosing) {
      this.#isClosing = true;
      this.lastError = reason;
      clearTimeout(this.#timer);
      if (this.#transport) {
        this.#transport.close();
      } else {
        // There is no connection at the moment. `'close'` must not be emitted before this call has returned.
        queueMicrotask(() => this.#finish(this.#code));
      }
    }
    return this.#end;
  }

  /**
   * Stops reading from the socket while streams are saturated, or resumes it. Called whenever a request has begun
   * or ended.
   */
  updateFlowControl() {
    const isIdle = this.requests.size === 0;
    this.#transport?.updateReading?.(this.#isReady, isIdle);
    if (this.#isLeaving && this.cancelHandlers.size === 0) {
      if (!this.isRegistered) {
        this.#transport?.close();
      } else if (this.#isReady && isIdle) {
        // Further frames are queued for the next connection. In a cluster the broker keeps messages to the id.
        this.#isReady = false;
        const transport = this.#transport;
        transport.sendFrame(frames.unregister(this.idText()));
        // In case the broker does not confirm.
        this.#timer = setTimeout(() => transport.close(), UNREGISTER_TIMEOUT);
      }
    }
  }

  // Called by the transport, or by `handleFrame` for an action of the same name.

  onTransportOpen() {
    this.#wasOpen = true;
    if (!this.#reconnect && !this.#isReady) {
      this.#flush();
    }
    this.emit('open');
  }

  registered(protocol) {
    this.usesVersion2 &&= typeof protocol === 'number' && protocol >= 2;
    this.isRegistered = true;
    this.hasLostId = this.#isReplaced = false;
    this.lastError = undefined;
    if (this.settings.protocol === 2 && !this.usesVersion2) {
      this.requests.failMatching(notNegotiated(), (entry) => entry.isSingle === false, true);
    }
    const wasLost = this.#attempts > 0;
    this.#attempts = 0;
    if (!this.#isReady) {
      this.#flush();
    }
    this.#settleWaiters('resolve', this.client);
    this.updateFlowControl();
    try {
      this.emit('registered');
    } finally {
      if (wasLost) {
        this.emit('reconnected');
      }
    }
  }

  /** Resolves or rejects the promises of `connected()`. Returns false if there are none. */
  #settleWaiters(how, value) {
    const waiters = this.#waiters.splice(0);
    for (const waiter of waiters) {
      waiter[how](value);
    }
    return waiters.length > 0;
  }

  unregistered(id, code) {
    const isReplaced = this.usesVersion2 && code === 'REPLACED';
    this.isRegistered = false;
    if (this.#isLeaving && !isReplaced) {
      return this.updateFlowControl();
    }
    this.hasLostId = true;
    this.#isReplaced ||= isReplaced;
    if (isReplaced) {
      this.cancelAll();
    }
    this.emit(isReplaced ? 'replaced' : 'unregistered', id);
  }

  /** The broker has rejected a frame that is not a request, perhaps the registration. */
  reportActionError(error) {
    if (!this.#settleWaiters('reject', error)) {
      this.reportPeerError(error);
    }
  }

  goaway(within) {
    if (this.#reconnect && !this.#isClosing) {
      clearTimeout(this.#timer);
      // Jitter: the clients of the broker leave one after the other.
      this.#timer = setTimeout(
        () => {
          this.#isLeaving = true;
          this.updateFlowControl();
        },
        0.8 * Math.random() * Math.min(within, MAX_TIMER),
      );
    }
    this.emit('goaway', within);
  }

  /** The transport has written all its frames. */
  onTransportDrain() {
    if (this.needsDrain && this.sendQueue.characters === 0) {
      this.needsDrain = false;
      this.emit('drain');
    }
  }

  /** The connection has failed. `onTransportClose` follows. */
  onTransportError(error) {
    this.lastError = error;
    if (!this.#reconnect) {
      this.#reportError(error);
    }
  }

  /** The connection has failed and ended with this code. Cleans up even if an `'error'` listener throws. */
  onTransportFailure(code, error, isFinal) {
    try {
      this.onTransportError(error);
    } finally {
      this.onTransportClose(code, false, isFinal);
    }
  }

  /**
   * The connection has ended with this code. `isSilent`: no `'close'` event, as in 1.7.2; `isFinal`: another
   * attempt would fail, too.
   */
  onTransportClose(code, isSilent, isFinal) {
    // The grant has expired, and the token function may return another token.
    const isExpired =
      code === 4401 && this.isRegistered && typeof this.settings.token === 'function';
    // The broker has refused the client (44xx): without another token it would do so again.
    const isRefused = code > 4399 && code < 4500 && !isExpired;
    const isOver = this.#isClosing || this.#isReplaced || isFinal || isRefused;
    this.#transport = undefined;
    this.isRegistered = this.#isReady = false;
    this.#code = code;
    clearTimeout(this.#timer);
    this.cancelAll();
    if (this.#reconnect && !isOver) {
      this.#retry(code);
    } else {
      this.#giveUp(this.#reconnect && !this.#isClosing && this.lastError, code, isSilent);
    }
  }

  #retry(code) {
    const { minDelay, maxDelay, factor, jitter, maxAttempts } = this.#reconnect;
    const reason = this.#reason();
    const mayResend = RESENDABLE.includes(code);
    // Requests that were sent are lost, unless they may be sent again.
    this.requests.failMatching(
      reason,
      (entry) => !entry.queuedItem && !(mayResend && entry.frameText),
    );
    for (const [key, entry] of this.requests) {
      // Appending keeps the order: the queue was empty when the request was sent.
      if (!entry.queuedItem) {
        // A new ack: the broker may still wait for an answer to the former one.
        const next = this.ack();
        this.requests.delete(key);
        this.requests.set(next, entry);
        entry.frameText = entry.frameText.replace(key, next);
        entry.onResend?.(next);
        this.sendQueue.addFrame(entry.frameText, entry);
      }
    }
    this.#attempts += 1;
    if (this.#attempts > maxAttempts) {
      this.#giveUp(reason, code);
      return;
    }
    this.lastError = reason;
    const longest = Math.min(maxDelay, minDelay * factor ** (this.#attempts - 1));
    // A client that left a draining broker connects again at once.
    const delay = this.#isLeaving ? 0 : Math.round(longest * (1 - jitter * Math.random()));
    this.#isLeaving = false;
    this.#timer = setTimeout(() => this.#dial(), delay);
    this.emit('reconnecting', this.#attempts, delay, reason);
  }

  /** The error that explains why the client is not connected. */
  #reason() {
    if (this.lastError) {
      return this.lastError;
    }
    return this.#isClosing
      ? coded('ERR_WSMB_CLOSED', 'client was closed')
      : coded('ERR_WSMB_CONNECTION_LOST', `connection closed with code ${this.#code}`);
  }

  /**
   * Emits an error of the connection as `'error'`. If a promise rejects with it, it is emitted only if there is a
   * listener. An error of an open connection is caused by the broker.
   */
  #reportError(error) {
    const isAwaited = this.#waiters[0] || [...this.requests.values()].some((entry) => entry.fail);
    if (!isAwaited || this.client.listenerCount('error') > 0) {
      if (this.#wasOpen) {
        this.reportPeerError(error);
      } else {
        this.emit('error', error);
      }
    }
  }

  #giveUp(error, code, isSilent) {
    try {
      if (error) {
        this.#reportError(error);
      }
    } finally {
      this.#finish(code, isSilent);
    }
  }

  #finish(code, isSilent) {
    if (this.#isEnded) {
      return;
    }
    const error = this.#reason();
    this.lastError = error;
    this.#isClosing = this.#isEnded = true;
    this.sendQueue.removeAll();
    this.#resolveEnd();
    // Callbacks stay in the table, as in 1.7.2.
    this.requests.failMatching(error, (entry) => entry.fail);
    this.#settleWaiters('reject', error);
    for (const stream of this.messageStreams) {
      stream.endStream();
    }
    if (!isSilent) {
      this.emit('close', code);
    }
  }
}

module.exports = Session;
