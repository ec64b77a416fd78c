'use strict';

// The options of both servers that differ from the defaults: small enough that the limits are reached within
// minutes at little cost. Also the timeout of every step.

const LIMITS = {
  /** A client that sends more is closed. The largest intended message has 1 MiB. */
  maxPayload: 4 << 20,
  /** A few large messages fill an outbox, so that senders get backpressure. */
  maxBackpressure: 4 << 20,
  /** Unanswered requests expire while their clients are still connected. */
  ackTimeout: 30_000,
  /** A silent peer is detected as dead within twice this interval plus the timeout. */
  pingInterval: 12_000,
  /**
   * Longer than slowConsumerTimeout plus the time of a flood: a peer that reads nothing is slow before it is
   * dead.
   */
  pingTimeout: 10_000,
};

/** The interval between two certificates of the TLS server, ms. */
const CERTIFICATE_EVERY = 60_000;

/** Far more than a busy machine needs, and far less than a run, ms. */
const DEADLINE = 30_000;

module.exports = { LIMITS, CERTIFICATE_EVERY, DEADLINE };
