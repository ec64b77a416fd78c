'use strict';

// The state of a client across its connections: send queue, registration, session and close. A transport (the addon's, or
// a browser's WebSocket) is one connection: it sends frames, and calls the `onTransport` methods.

const callAll = require('./callAll');
const { aborted, coded, exceeded } = require('./errors');
const frames = require('./frames');
const Messaging = require('./messaging');
const Reconnection = require('./reconnection');
const Resumption = require('./resumption');
const SendQueue = require('./sendQueue');
const signals = require('./signals');
const timers = require('./timers');
const { renewalDelay, resolveToken } = require('./token');
const { MAX_TIMER, startWait } = require('./wait');

/** Time to wait for the confirmation of `unregister` before a draining broker is left, in milliseconds. */
const UNREGISTER_TIMEOUT = 1000;

/** The code of a connection that was lost: only then does the broker keep a session. */
const LOST = 1006;
/** Time for which a session without a connection is requested, in milliseconds: the most that a broker may grant. */
const SESSION_TIMEOUT = 300_000;

/** Close codes (going away, connection lost, restart) after which requests are sent again. */
const RESENDABLE = [1001, 1006, 1012];

const notNegotiated = () => coded('ERR_WSMB_NOT_NEGOTIATED', 'requires protocol 2');

class Session extends Messaging {
  #reconnection;
  /** `connect(session, token, address)` creates a transport. */
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
  /** While the session at the broker waits for another connection: why the last one was lost, and the timer for its end. */
  #suspendedBy;
  #sessionTimer;
  /** The timer of a `goaway`, or of the confirmation of `unregister`. */
  #timer;
  /** The timer of the renewal of a grant. */
  #renewalTimer;
  /** The token of the connection. */
  #token;
  /** True once `drain()` was called: the client takes no further messages, and ends when nothing is pending. */
  #isDraining = false;
  /** The close code and reason of the last connection. */
  #code;
  #closeReason = '';
  /** Callers of `connected()` that wait for the registration: `{ resolve, reject }`. */
  #waiters = new Set();
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
  /** Called when the client has ended. */
  onEnd;
  /** True if a `'drain'` event must follow. */
  needsDrain = false;

  /** `settings`: all options, with their defaults; `ack()` creates an ack. */
  constructor(client, addresses, settings, ack, connect) {
    super(client);
    this.settings = settings;
    this.ack = ack;
    this.#connect = connect;
    this.#reconnection = new Reconnection(settings, addresses, () => this.#dial());
    this.reconnects = this.#reconnection.isEnabled;
    this.resendsRequests = this.#reconnection.isEnabled && settings.resend === 'requests';
    const { protocol, signal } = settings;
    this.isStrict = protocol === 2;
    if (this.isStrict && !this.#hasId()) {
      throw this.#invalidId();
    }
    this.offersVersion2 = this.isStrict || (protocol !== 1 && this.#hasId());
    this.#dial();
    const abort = () => this.close(aborted(signal));
    if (signal?.aborted) {
      abort();
    }
    signals.add(signal, abort);
    this.#end.then(() => signals.remove(signal, abort));
  }

  /** True if a broker accepts the id of the client. */
  #hasId() {
    const { id } = this.client;
    return (typeof id === 'string' || Number.isFinite(id)) && Boolean(id);
  }

  #invalidId() {
    return coded('ERR_WSMB_ID', `id is ${String(this.client.id)}, expected a string`, TypeError);
  }

  #dial() {
    this.#wasOpen = false;
    this.usesVersion2 = this.offersVersion2;
    const connect = ([token, address]) => {
      if (!this.#isClosing) {
        this.#token = token;
        this.#transport = this.#connect(this, token, address);
        if (this.#transport.acceptsEarlyFrames) {
          this.#flush();
        }
      }
    };
    const fail = (error) => this.#isClosing || this.onTransportFailure(1006, error);
    this.#reconnection.dial(connect, fail);
  }

  /** True if the last attempt to connect has failed, and there are addresses that were not tried since. */
  get #hasNext() {
    return !this.#wasOpen && this.#reconnection.hasNext;
  }

  /** Renews a grant shortly before it expires, if the program gives a function for tokens. */
  #scheduleRenewal() {
    timers.clearTimeout(this.#renewalTimer);
    const delay = typeof this.settings.token === 'function' && renewalDelay(this.#token);
    if (delay && delay <= MAX_TIMER) {
      this.#renewalTimer = timers.setTimeout(() => this.#renew(), delay);
    }
  }

  async #renew() {
    try {
      const [token] = await resolveToken(this.settings.connectTimeout, this.settings.token);
      if (this.isRegistered) {
        this.#token = token;
        this.register(token);
      }
    } catch {
      // The broker ends the connection when the grant expires, and the next attempt reports the error.
    }
  }

  /** True while the broker has a registration of the client, perhaps one whose connection is lost. */
  get holdsRegistration() {
    return this.isRegistered || Boolean(this.#suspendedBy);
  }

  get state() {
    if (this.#isClosing) return 'closed';
    if (this.isRegistered) return 'registered';
    if (this.#transport && this.#wasOpen) return 'open';
    return this.#reconnection.attempts > 0 ? 'reconnecting' : 'connecting';
  }

  /** Ends the wait for the next attempt to connect. */
  reconnectNow() {
    if (!this.#isClosing) {
      this.#reconnection.dialNow();
    }
  }

  /** Registers again, with another token. */
  register(token) {
    this.assertOpen();
    if (typeof this.settings.token !== 'function') {
      this.settings.token = token;
    }
    this.sendFrame(this.registerFrame(token));
  }

  /** The frame that registers the id. `session`: the session to request with it. */
  registerFrame(token, session) {
    const id = this.idText();
    return frames.register(id, JSON.stringify(token), this.offersVersion2, JSON.stringify(session));
  }

  /** The session that a connection requests: a new one, or that which continues. */
  sessionRequest() {
    const { session = true } = this.settings;
    if (!this.#reconnection.isEnabled || !this.offersVersion2 || session === false) {
      return undefined;
    }
    const timeout = session === true ? SESSION_TIMEOUT : Math.ceil(session);
    const { token, received: count } = this.resumption ?? {};
    return token === undefined ? { timeout } : { timeout, token, count };
  }

  idText() {
    return JSON.stringify(this.client.id);
  }

  get bufferedAmount() {
    return this.#buffered(true);
  }

  /** The `bufferedAmount`. Without `isExact` cheaper, but perhaps too large: bytes may have been written meanwhile. */
  #buffered(isExact) {
    return this.sendQueue.characters + (this.#transport?.countBuffered(isExact) ?? 0);
  }

  /** Throws if the client is closed. `begins`: or drains, because a request or message begins. */
  assertOpen(begins) {
    if (this.#isClosing || (begins && this.#isDraining)) {
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
    if (this.#buffered() > limit && this.#buffered(true) > limit) {
      const message = `more than ${maxQueued} bytes queued (maxQueued): await 'drain'`;
      throw coded('ERR_WSMB_MAX_QUEUED', message);
    }
    // While leaving or draining, only answers are sent. Requests have an entry.
    const isLast = (this.#isLeaving || this.#isDraining) && isUrgent && !entry;
    if (this.#isReady || (isLast && !this.#suspendedBy)) {
      this.transmit(frame, isUrgent);
    } else {
      this.sendQueue.addFrame(frame, entry);
    }
    const isBelow = this.#buffered() < highWaterMark;
    if (!isBelow) {
      this.needsDrain = true;
      this.#transport?.requestDrain();
    }
    return isBelow;
  }

  /** Passes a frame to the transport. */
  transmit(frame, isUrgent) {
    this.resumption?.keepSent(frame);
    this.#transport.sendFrame(frame, isUrgent);
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
    this.sendQueue.drainTo((frame) => this.transmit(frame));
    if (this.needsDrain) {
      this.#transport.requestDrain();
    }
  }

  /** Resolves when the client is registered. Rejects when the client has ended, or the wait. */
  async connected({ timeout, signal }) {
    if (this.isRegistered) {
      return this.client;
    }
    if (this.#isEnded) {
      throw this.#reason();
    }
    if (signal?.aborted) {
      throw aborted(signal);
    }
    if (!this.#hasId()) {
      throw this.#invalidId();
    }
    return new Promise((resolve, reject) => {
      const settle = (how) => (value) => {
        this.#waiters.delete(waiter);
        stopWait();
        how(value);
      };
      const waiter = { resolve: settle(resolve), reject: settle(reject) };
      const expire = () => {
        const error = exceeded('TIMEOUT', 'timeout', timeout);
        error.cause = this.lastError;
        waiter.reject(error);
      };
      const stopWait = startWait(timeout, signal, () => this.whenQuiet(expire), waiter.reject);
      this.#waiters.add(waiter);
    });
  }

  /**
   * Closes the client once nothing is pending: registers first if it is connecting, waits for answers to its requests,
   * gives up the id, and waits for its own answers to the requests that have arrived.
   */
  drain() {
    if (!this.#isDraining) {
      this.#isDraining = true;
      if (this.#suspendedBy) {
        // Frames that the broker has not received are sent first. If this attempt fails, the client ends.
        this.reconnectNow();
      } else if (this.#transport) {
        this.updateFlowControl();
      } else {
        this.close();
      }
    }
    return this.#end;
  }

  /** Closes the client. `reason`: the error with which pending requests fail. */
  close(reason) {
    if (!this.#isClosing) {
      this.#isClosing = true;
      this.lastError = reason;
      timers.clearTimeout(this.#timer);
      this.#reconnection.stop();
      if (this.#transport) {
        this.#transport.close();
      } else {
        // There is no connection at the moment. `'close'` must not be emitted before this call has returned.
        timers.setTimeout(() => this.#finish(this.#code), 0);
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
    if (this.#isDraining || this.#isLeaving) {
      this.#leave(isIdle);
    }
  }

  /** Leaves the broker step by step: gives up the id, answers the requests that have arrived, and closes. */
  #leave(isIdle) {
    const transport = this.#transport;
    const hasAnswered = this.cancelHandlers.size === 0;
    const end = () => (this.#isDraining ? this : transport)?.close();
    if (this.isRegistered) {
      // A client that drains gives up its id first: otherwise requests might never cease to arrive.
      if (this.#isReady && isIdle && (hasAnswered || this.#isDraining)) {
        // Further frames are queued for the next connection. In a cluster the broker keeps messages to the id.
        this.#isReady = false;
        transport.sendFrame(frames.unregister(this.idText()));
        // In case the broker does not confirm.
        const expire = () => this.whenQuiet(() => this.isRegistered && end());
        this.#timer = timers.setTimeout(expire, UNREGISTER_TIMEOUT);
      }
    } else if (hasAnswered && (this.hasLostId || !this.#isDraining)) {
      end();
    }
  }

  // Called by the transport, or by `handleFrame` for an action of the same name.

  onTransportOpen() {
    this.#wasOpen = true;
    if (!this.#reconnection.isEnabled && !this.#isReady) {
      this.#flush();
    }
    this.emit('open');
  }

  registered(protocol, session) {
    if (!this.isRegistered) {
      if (session?.resumed === true) {
        return this.#resumed(session);
      }
      this.#endSession(LOST);
      if (typeof session?.token === 'string' && session.timeout > 0 && this.sessionRequest()) {
        this.resumption = new Resumption(session, (count) => {
          if (this.isRegistered) {
            this.#transport.sendFrame(frames.received(count));
          }
        });
      }
    }
    this.usesVersion2 &&= typeof protocol === 'number' && protocol >= 2;
    this.isRegistered = true;
    this.hasLostId = this.#isReplaced = false;
    this.lastError = undefined;
    if (this.offersVersion2 && !this.usesVersion2) {
      this.requests.failMatching(notNegotiated(), (entry) => entry.isSingle === false, true);
    }
    const wasLost = this.#reconnection.succeed();
    if (!this.#isReady) {
      this.#flush();
    }
    this.#settleWaiters('resolve', this.client);
    this.subscriptions.onRegistered();
    this.watches.onRegistered();
    this.mailboxes.onRegistered();
    this.#scheduleRenewal();
    this.updateFlowControl();
    try {
      this.emit('registered');
    } finally {
      if (wasLost) {
        this.emit('reconnected');
      }
    }
  }

  /** The session continues on this connection: sends what the broker has not received. */
  #resumed({ count }) {
    const missing = this.#suspendedBy && this.resumption.since(count);
    if (!missing) {
      // Too much was sent meanwhile, or its time is over here. The broker ends the session with the connection.
      this.#endSession(LOST);
      this.#transport.close();
      return;
    }
    this.#suspendedBy = undefined;
    timers.clearTimeout(this.#sessionTimer);
    this.isRegistered = true;
    this.lastError = undefined;
    this.#reconnection.succeed();
    for (const frame of missing) {
      this.#transport.sendFrame(frame);
    }
    this.#flush();
    this.#settleWaiters('resolve', this.client);
    this.#scheduleRenewal();
    this.updateFlowControl();
    callAll([() => this.emit('resumed'), () => this.emit('reconnected')]);
  }

  /** Keeps the session of a lost connection as long as the broker. */
  #suspend() {
    if (!this.#suspendedBy) {
      this.#suspendedBy = this.#reason();
      this.resumption.stop();
      // Only this broker has the session: the next attempt is to the same address.
      this.#reconnection.repeatAddress();
      const expire = () => this.#suspendedBy && this.#endSession(LOST);
      this.#sessionTimer = timers.setTimeout(expire, Math.min(this.resumption.timeout, MAX_TIMER));
    }
  }

  /** Ends the session: what it has not completed is lost. `code`: of the lost connection. */
  #endSession(code) {
    timers.clearTimeout(this.#sessionTimer);
    this.resumption?.stop();
    this.resumption = undefined;
    const reason = this.#suspendedBy;
    this.#suspendedBy = undefined;
    if (reason) {
      this.#loseConnection(code, reason);
    }
  }

  /** Resolves or rejects the promises of `connected()`. Returns false if there are none. */
  #settleWaiters(how, value) {
    const hasWaiters = this.#waiters.size > 0;
    for (const waiter of this.#waiters) {
      waiter[how](value);
    }
    return hasWaiters;
  }

  unregistered(id, code) {
    const isReplaced = this.usesVersion2 && code === 'REPLACED';
    this.isRegistered = false;
    this.#endSession(LOST);
    this.subscriptions.onLost(coded('ERR_WSMB_NOT_REGISTERED', 'id was lost'));
    this.watches.onLost();
    this.mailboxes.onLost();
    if ((this.#isLeaving || this.#isDraining) && !isReplaced) {
      timers.clearTimeout(this.#timer);
      this.hasLostId = this.#isDraining;
      return this.updateFlowControl();
    }
    this.hasLostId = true;
    this.#isReplaced ||= isReplaced;
    if (isReplaced) {
      this.cancelAll();
    }
    this.emit(isReplaced ? 'replaced' : 'unregistered', id);
  }

  /**
   * The broker has refused a frame for which no promise waits, perhaps the registration. Brokers of version 1 report
   * nothing, so that a program written for it must not get an `'error'`.
   */
  onRefusal(error) {
    if (this.#settleWaiters('reject', error)) {
      return;
    }
    this.peerErrors += 1;
    if (this.client.listenerCount('refused') > 0) {
      this.emit('refused', error);
    } else if (this.isStrict) {
      this.emitError(error);
    }
  }

  goaway(within) {
    if (this.#reconnection.isEnabled && !this.#isClosing) {
      timers.clearTimeout(this.#timer);
      // Jitter: the clients of the broker leave one after the other.
      this.#timer = timers.setTimeout(
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
    if (this.#isClosing) {
      return;
    }
    this.lastError = error;
    if (!this.#reconnection.isEnabled && !this.#hasNext) {
      this.#reportError(error);
    }
  }

  /** The connection has failed and ended with this code. Cleans up even if an `'error'` listener throws. */
  onTransportFailure(code, error, isFinal) {
    try {
      this.onTransportError(error);
    } finally {
      this.onTransportClose(code, '', isFinal);
    }
  }

  /**
   * The connection has ended with this code. `isFinal`: another attempt would fail, too; `isSilent`: no `'close'`
   * event, as in 1.7.2.
   */
  onTransportClose(code, reason = '', isFinal, isSilent) {
    // The grant has expired, and the token function may return another token.
    const isExpired =
      code === 4401 && this.isRegistered && typeof this.settings.token === 'function';
    // The broker has refused the client (44xx): without another token it would do so again.
    const isRefused = code > 4399 && code < 4500 && !isExpired;
    const isOver = this.#isClosing || this.#isReplaced || isFinal || isRefused;
    this.#transport = undefined;
    this.isRegistered = this.#isReady = false;
    this.#code = code;
    this.#closeReason = reason;
    timers.clearTimeout(this.#timer);
    timers.clearTimeout(this.#renewalTimer);
    const isRetried =
      (this.#reconnection.isEnabled || this.#hasNext) && !isOver && !this.#isDraining;
    const wasLost = this.#suspendedBy || (code === LOST && !this.#isLeaving);
    if (isRetried && wasLost && this.resumption) {
      this.#suspend();
    } else {
      this.#suspendedBy = undefined;
      this.#endSession(code);
      this.cancelAll();
    }
    if (isRetried) {
      this.#retry(code);
    } else {
      const isGivenUp = this.#reconnection.isEnabled && !this.#isClosing;
      this.#giveUp(isGivenUp && this.lastError, code, isSilent);
    }
  }

  /** The requests and subscriptions of a lost connection are lost, unless they are sent again. */
  #loseConnection(code, reason) {
    const mayResend = RESENDABLE.includes(code);
    this.cancelAll();
    // Requests that were sent are lost, unless they may be sent again.
    this.requests.failMatching(
      reason,
      (entry) => !entry.queuedItem && !(mayResend && entry.frameText),
    );
    const resend = () => {
      for (const [key, entry] of [...this.requests]) {
        if (!entry.queuedItem && entry.keepsKey) {
          this.sendQueue.addFrame(entry.frameText, entry);
        } else if (!entry.queuedItem) {
          // A new ack: the broker may still wait for an answer to the former one.
          const next = this.ack();
          this.requests.delete(key);
          this.requests.set(next, entry);
          entry.frameText = entry.frameText.replace(key, next);
          entry.onResend?.(next);
          this.sendQueue.addFrame(entry.frameText, entry);
        }
      }
    };
    // Frames that were queued after the connection was lost are later ones.
    this.sendQueue.prepend(resend);
    this.subscriptions.onLost(reason);
    this.watches.onLost();
    this.mailboxes.onLost();
  }

  #retry(code) {
    const reason = this.#reason();
    if (!this.#suspendedBy) {
      this.#loseConnection(code, reason);
    }
    if (!this.#reconnection.countFailure()) {
      this.#giveUp(reason, code);
      return;
    }
    this.lastError = reason;
    // A client that left a draining broker connects again at once.
    const delay = this.#reconnection.schedule(this.#isLeaving || this.#hasNext);
    this.#isLeaving = false;
    this.emit('reconnecting', this.#reconnection.attempts, delay, reason);
  }

  /** The error that explains why the client is not connected. */
  #reason() {
    if (this.lastError) {
      return this.lastError;
    }
    if (this.#isClosing) {
      return coded('ERR_WSMB_CLOSED', 'client was closed');
    }
    const message = `connection closed with code ${this.#code} ${this.#closeReason}`;
    const error = coded('ERR_WSMB_CONNECTION_LOST', message.trim());
    error.closeCode = this.#code;
    error.reason = this.#closeReason;
    return error;
  }

  /**
   * Emits an error of the connection as `'error'`. If a promise rejects with it, it is emitted only if there is a
   * listener. An error of an open connection is caused by the broker.
   */
  #reportError(error) {
    const isAwaited =
      this.#waiters.size > 0 || [...this.requests.values()].some((entry) => entry.fail);
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
    this.#suspendedBy = undefined;
    this.#endSession();
    this.cancelAll();
    this.sendQueue.removeAll();
    this.#resolveEnd();
    this.onEnd?.();
    // Callbacks stay in the table, as in 1.7.2.
    this.requests.failMatching(error, (entry) => entry.fail);
    this.#settleWaiters('reject', error);
    for (const stream of this.messageStreams) {
      stream.endStream();
    }
    // Without a reason, one argument, as in 1.7.2.
    const args = this.#closeReason ? [code, this.#closeReason] : [code];
    callAll([
      () => this.subscriptions.end(error),
      () => this.watches.end(error),
      () => this.mailboxes.end(error),
      () => isSilent || this.emit('close', ...args),
    ]);
  }
}

module.exports = Session;
