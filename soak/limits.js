'use strict';

// The options of both servers that are not their defaults: small enough that what they bound is met
// within minutes, at a modest cost. And how long anything may take here before it counts as lost.

const LIMITS = {
  /** A client that sends more is closed; the largest message that is sent on purpose is 1 MiB. */
  maxPayload: 4 << 20,
  /** A few large messages fill an outbox: senders are held, and go on. */
  maxBackpressure: 4 << 20,
  /** Unanswered requests expire while their clients are still there. */
  ackTimeout: 30_000,
  /** A peer that falls silent is found dead within twice of this, and the timeout. */
  pingInterval: 12_000,
  /** Longer than slowConsumerTimeout, by what a flood may take: who does not read is slow first. */
  pingTimeout: 10_000,
};

/** How often the server with TLS gets another certificate, in milliseconds. */
const CERTIFICATE_EVERY = 60_000;

/** Milliseconds: far more than a busy machine needs, far less than a run. */
const DEADLINE = 30_000;

module.exports = { LIMITS, CERTIFICATE_EVERY, DEADLINE };
