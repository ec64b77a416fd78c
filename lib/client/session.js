'use strict';

// What one client is across the connections that it has, one after the other. A transport (the addon's, or
// a browser's WebSocket) carries frames one way and tells events the other; all that lasts is here.

const { aborted, coded } = require('./errors');
const Exchange = require('./exchange');
const frames = require('./frames');
const { LONGEST } = require('./ask');

/** What holds where `reconnect` does not say it; milliseconds, and as many attempts as it takes. */
const RECONNECT = {
  minDelay: 500,
  maxDelay: 30_000,
  factor: 2,
  jitter: 1,
};
/** Milliseconds until a connection that leaves is closed, though its server has not confirmed that its id is free. */
const UNREGISTERS = 1000;

/** Going away, cut off, restarting: what was asked may be asked again. After others it would fail again. */
const RESENDABLE = [1001, 1006, 1012];

const notNegotiated = () =>
  coded('ERR_WSMB_NOT_NEGOTIATED', 'version 2 is not spoken: set { protocol: 2 }');

class Session extends Exchange {
  #reconnect;
  /** `connect(session, token)` makes a transport. */
  #connect;
  #transport;
  /** True while frames go to the transport; if not, they wait here as `[frame, entry]`, in order. */
  #isReady = false;
  #queue = new Set();
  /** Characters of them. */
  #queued = 0;
  #isReplaced = false;
  /** The connection is open, or was: what ends it then is not ours. */
  #wasOpen = false;
  #isClosing = false;
  #isEnded = false;
  /**
   * A draining server is left as soon as nothing is awaited, of others or of us: the id is given up, what was asked
   * before that is answered, and the connection is closed.
   */
  #isLeaving = false;
  /** Connections lost since the last registration. */
  #attempts = 0;
  #timer;
  /** The code with which the connection has ended. */
  #code;
  /** Those who wait for the registration: `{ resolve, reject }`. */
  #waiters = [];
  #resolveEnd;
  #end = new Promise((resolve) => {
    this.#resolveEnd = resolve;
  });

  isRegistered = false;
  /** Its id was given up, or taken over: nobody answers it. */
  isNobody = false;
  /** Why there is no connection, if that is known. */
  cause;
  /** `'drain'` is awaited. */
  needsDrain = false;

  /** `options`: all of them, with their defaults; `ack()` makes an ack. */
  constructor(client, options, ack, connect) {
    super(client);
    this.options = options;
    this.ack = ack;
    this.#connect = connect;
    this.#reconnect = options.reconnect && { ...RECONNECT, ...Object(options.reconnect) };
    this.resends = this.#reconnect && options.resend === 'requests';
    const { id } = client;
    if (options.protocol === 2 && !((typeof id === 'string' || Number.isFinite(id)) && id)) {
      throw coded('ERR_WSMB_ID', `the id is ${String(id)}, expected a string`, TypeError);
    }
    this.#dial();
    const { signal } = options;
    const abort = () => this.close(aborted(signal));
    if (signal?.aborted) {
      abort();
    }
    signal?.addEventListener('abort', abort);
    this.#end.then(() => signal?.removeEventListener('abort', abort));
  }

  #dial() {
    const { protocol, token } = this.options;
    this.#wasOpen = false;
    this.speaks2 = protocol === 2;
    const connect = (shown) => {
      if (!this.#isClosing) {
        this.#transport = this.#connect(this, shown);
        if (!this.#reconnect && this.#transport.isEager) {
          // With nobody to connect once more, what is sent early is the transport's to keep.
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
        try {
          this.broke(error);
        } finally {
          this.closed(1006);
        }
      }
    };
    // What a listener throws is no rejection.
    new Promise((resolve) => resolve(token()))
      .then(connect)
      .catch((error) => setTimeout(fail, 0, error));
  }

  /** Registers once more, with another token. */
  register(token) {
    this.assertOpen();
    if (typeof this.options.token !== 'function') {
      this.options.token = token;
    }
    this.push(frames.register(this.idText(), JSON.stringify(token), this.options.protocol));
  }

  idText() {
    return JSON.stringify(this.client.id);
  }

  get bufferedAmount() {
    return this.#queued + (this.#transport?.bufferedAmount ?? 0);
  }

  /** The same, as far as is known without asking. */
  get #waiting() {
    return this.#queued + (this.#transport?.waiting ?? 0);
  }

  assertOpen() {
    if (this.#isClosing) {
      throw coded('ERR_WSMB_NOT_OPEN', 'not opened');
    }
  }

  assert2() {
    if (!this.speaks2) {
      throw notNegotiated();
    }
  }

  /**
   * Sends a frame; `isAwaited`: somebody waits for what it brings; `entry`: that of the request. False above
   * the high-water mark: `'drain'` follows.
   */
  push(frame, isAwaited, entry) {
    const { maxQueued, highWaterMark } = this.options;
    let queued = this.#waiting + frame.length;
    if (queued > maxQueued) {
      // Some of it may have been written since we last asked.
      queued = this.bufferedAmount + frame.length;
    }
    if (queued > maxQueued) {
      const message = `more than ${maxQueued} bytes wait (maxQueued)`;
      throw coded('ERR_WSMB_MAX_QUEUED', message);
    }
    // Answers to what was asked before the id was given up: requests have an entry.
    if (this.#isReady || (this.#isLeaving && isAwaited && !entry)) {
      this.#transport.push(frame, isAwaited);
    } else {
      this.#enqueue(frame, entry);
    }
    const isBelow = this.#waiting < highWaterMark;
    if (!isBelow) {
      this.needsDrain = true;
      this.#transport?.wantDrain();
    }
    return isBelow;
  }

  /** Sends a request. What cannot be sent, fails; for a callback that is thrown. */
  ask(frame, entry) {
    this.pace();
    try {
      return this.push(frame, true, entry);
    } catch (error) {
      error.isFinal = true;
      this.requests.end(error, (each) => each === entry);
      if (!entry.end) {
        throw error;
      }
    }
  }

  #enqueue(frame, entry) {
    const item = [frame, entry];
    this.#queue.add(item);
    this.#queued += frame.length;
    if (entry) {
      entry.queued = item;
    }
  }

  /** What is given up before it is sent, is not sent. */
  withdraw({ queued }) {
    if (this.#queue.delete(queued)) {
      this.#queued -= queued[0].length;
    }
  }

  /** Nothing is queued any more. */
  #unqueue() {
    this.#queue.clear();
    this.#queued = 0;
  }

  /** From now on frames go to the transport, those first that were queued. */
  #flush() {
    this.#isReady = true;
    for (const [frame, entry] of this.#queue) {
      this.#transport.push(frame);
      if (entry) {
        entry.queued = undefined;
      }
    }
    this.#unqueue();
    if (this.needsDrain) {
      this.#transport.wantDrain();
    }
  }

  /** Resolves when the client is registered; rejects when it has ended. */
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

  /** `reason`: what is awaited fails with it. */
  close(reason) {
    if (!this.#isClosing) {
      this.#isClosing = true;
      this.cause = reason;
      clearTimeout(this.#timer);
      if (this.#transport) {
        this.#transport.close();
      } else {
        // Between two connections. Nothing is told before this call has returned.
        queueMicrotask(() => this.#finish(this.#code));
      }
    }
    return this.#end;
  }

  /**
   * Reads no further while the program has enough: the socket then pushes back. But whoever awaits an
   * answer must be given it, whatever lies before it.
   */
  pace() {
    const isIdle = this.requests.size === 0;
    this.#transport?.hold?.(this.#isReady && isIdle && this.full.size > 0);
    if (this.#isLeaving && this.cancels.size === 0) {
      if (!this.isRegistered) {
        this.#transport?.close();
      } else if (this.#isReady && isIdle) {
        // What is sent from now on waits until it is elsewhere; what comes for the id waits at the server.
        this.#isReady = false;
        const transport = this.#transport;
        transport.push(frames.unregister(this.idText()));
        // A server may not answer.
        this.#timer = setTimeout(() => transport.close(), UNREGISTERS);
      }
    }
  }

  // What a transport tells.

  opened() {
    this.#wasOpen = true;
    if (!this.#reconnect && !this.#isReady) {
      this.#flush();
    }
    this.emit('open');
  }

  registered(protocol) {
    this.speaks2 &&= typeof protocol === 'number' && protocol >= 2;
    this.isRegistered = true;
    this.isNobody = this.#isReplaced = false;
    this.cause = undefined;
    if (this.options.protocol === 2 && !this.speaks2) {
      const error = notNegotiated();
      error.isFinal = true;
      this.requests.end(error, (entry) => entry.needs2);
    }
    const wasLost = this.#attempts > 0;
    this.#attempts = 0;
    if (!this.#isReady) {
      this.#flush();
    }
    this.#settle('resolve', this.client);
    this.pace();
    try {
      this.emit('registered');
    } finally {
      if (wasLost) {
        this.emit('reconnected');
      }
    }
  }

  /** Tells those who wait for the registration; false if nobody does. */
  #settle(how, value) {
    const waiters = this.#waiters.splice(0);
    for (const waiter of waiters) {
      waiter[how](value);
    }
    return waiters.length > 0;
  }

  unregistered(id, code) {
    const isReplaced = this.speaks2 && code === 'REPLACED';
    this.isRegistered = false;
    if (this.#isLeaving && !isReplaced) {
      return this.pace();
    }
    this.isNobody = true;
    this.#isReplaced ||= isReplaced;
    if (isReplaced) {
      this.cancelAll();
    }
    this.emit(isReplaced ? 'replaced' : 'unregistered', id);
  }

  /** The server has refused what nobody awaits: it may be the registration. */
  complained(error) {
    if (!this.#settle('reject', error)) {
      this.misunderstood(error);
    }
  }

  goaway(within) {
    if (this.#reconnect && !this.#isClosing) {
      clearTimeout(this.#timer);
      // Not all at once.
      this.#timer = setTimeout(
        () => {
          this.#isLeaving = true;
          this.pace();
        },
        0.8 * Math.random() * Math.min(within, LONGEST),
      );
    }
    this.emit('goaway', within);
  }

  /** The transport has written all that it had. */
  drained() {
    if (this.needsDrain && this.#queued === 0) {
      this.needsDrain = false;
      this.emit('drain');
    }
  }

  /** The connection fails: `closed` follows. */
  broke(error) {
    this.cause = error;
    if (!this.#reconnect) {
      this.#tell(error);
    }
  }

  /**
   * The connection has ended with this code. `isSilent`: as in version 1, that is not told; `isFinal`: to
   * try once more would not help.
   */
  closed(code, isSilent, isFinal) {
    // What was granted has expired: there may be another token.
    const isExpired =
      code === 4401 && this.isRegistered && typeof this.options.token === 'function';
    // Refused (44xx): not without another token.
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
      this.#giveUp(this.#reconnect && !this.#isClosing && this.cause, code, isSilent);
    }
  }

  #retry(code) {
    const { minDelay, maxDelay, factor, jitter, maxAttempts } = this.#reconnect;
    const reason = this.#reason();
    const mayResend = RESENDABLE.includes(code);
    // What was on its way is lost.
    this.requests.end(reason, (entry) => !entry.queued && !(mayResend && entry.frame));
    for (const [key, entry] of this.requests) {
      // Then nothing waits yet: while it is not ready, nothing is on its way.
      if (!entry.queued) {
        // The server may still await an answer to the former ack: it has not noticed.
        const next = this.ack();
        this.requests.delete(key);
        this.requests.set(next, entry);
        entry.frame = entry.frame.replace(key, next);
        entry.again?.(next);
        this.#enqueue(entry.frame, entry);
      }
    }
    this.#attempts += 1;
    if (this.#attempts > maxAttempts) {
      this.#giveUp(reason, code);
      return;
    }
    this.cause = reason;
    const longest = Math.min(maxDelay, minDelay * factor ** (this.#attempts - 1));
    // One that was sent away is awaited elsewhere.
    const delay = this.#isLeaving ? 0 : Math.round(longest * (1 - jitter * Math.random()));
    this.#isLeaving = false;
    this.#timer = setTimeout(() => this.#dial(), delay);
    this.emit('reconnecting', this.#attempts, delay, reason);
  }

  /** Why the client is not connected. */
  #reason() {
    if (this.cause) {
      return this.cause;
    }
    return this.#isClosing
      ? coded('ERR_WSMB_CLOSED', 'the client was closed')
      : coded('ERR_WSMB_CONNECTION_LOST', `the connection has ended (${this.#code})`);
  }

  /**
   * An error of the connection. Where a promise rejects with it, it is an event only for those who listen. An error of
   * an open connection is the server's doing.
   */
  #tell(error) {
    const isTold = this.#waiters[0] || [...this.requests.values()].some((entry) => entry.end);
    if (!isTold || this.client.listenerCount('error') > 0) {
      if (this.#wasOpen) {
        this.misunderstood(error);
      } else {
        this.emit('error', error);
      }
    }
  }

  #giveUp(error, code, isSilent) {
    try {
      if (error) {
        this.#tell(error);
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
    this.cause = error;
    this.#isClosing = this.#isEnded = true;
    this.#unqueue();
    this.#resolveEnd();
    // Callbacks stay, as in version 1.
    this.requests.end(error, (entry) => entry.end);
    this.#settle('reject', error);
    for (const stream of this.streams) {
      stream.end();
    }
    if (!isSilent) {
      this.emit('close', code);
    }
  }
}

module.exports = Session;
