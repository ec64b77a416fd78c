'use strict';

// Jobs sent to groups of workers, their outcomes, and the workers that have handled them, recorded separately and
// compared at the end.

const { RECOVERY, WINDOW } = require('./history');

/** The codes of requests that no worker has handled. */
const UNHANDLED = ['NO_SUBSCRIBER', 'UNKNOWN_ID', 'BUSY', 'SLOW'];

class Jobs {
  #history;
  #brokers;
  #jobs = [];
  faults = [];

  /** `brokers`: the names of all brokers. */
  constructor(history, brokers) {
    this.#history = history;
    this.#brokers = brokers;
  }

  /**
   * Records a job that is about to be sent. `kind`: `published`, `request`, or `retried` for a request with `retry`;
   * `groups`: the matching groups by name, with the ids of their workers.
   */
  send(connection, kind, groups) {
    const job = { at: Date.now(), connection, kind, groups, handled: [], outcome: undefined };
    return this.#jobs.push(job) - 1;
  }

  /** Records the outcome of a request: a code, or `answered`. */
  settle(number, outcome) {
    const job = this.#jobs[number];
    if (job.outcome !== undefined) this.faults.push(`job ${number} has two outcomes`);
    job.outcome = outcome;
    job.settled = Date.now();
  }

  /** Records the receipt of a published job, or the code of its failure. */
  receipt(number, receipt) {
    this.#jobs[number].receipt = receipt;
  }

  /** Records that a worker has begun to handle a job. */
  handled(number, group, worker, attempt) {
    const job = this.#jobs[number];
    if (!job?.groups.has(group)) this.faults.push(`job ${number} was never sent to ${group}`);
    else job.handled.push({ group, worker, attempt });
  }

  /** Counts the jobs by kind and outcome, and adds violations to `faults`. */
  close() {
    const counts = {};
    for (const [number, job] of this.#jobs.entries()) {
      for (const [group, workers] of job.groups) {
        const handled = job.handled.filter((one) => one.group === group);
        const isQuiet = this.#isQuiet(job, workers);
        const times = ['not handled', 'handled', 'handled again'][Math.min(handled.length, 2)];
        const outcome = job.kind === 'published' ? times : `${job.outcome}, ${times}`;
        const what = `${job.kind}, ${outcome}${isQuiet ? '' : ', near a fault'}`;
        counts[what] = (counts[what] ?? 0) + 1;
        const fault = this.#check(job, handled, isQuiet);
        if (fault) {
          const { at, connection, kind, receipt, settled = at } = job;
          const by = handled.map(({ worker, attempt }) => `${worker} ${attempt}`).join(', ');
          this.faults.push(
            `job ${number} (${kind}, ${group}, from ${connection.id} at ${connection.broker} at ${at}, ` +
              `${job.outcome ?? JSON.stringify(receipt)} after ${settled - at} ms, handled by [${by}]) ${fault}`,
          );
        }
      }
    }
    return counts;
  }

  #check({ kind, outcome }, handled, isQuiet) {
    const attempts = new Set(handled.map(({ attempt }) => attempt));
    if (kind !== 'retried' && handled.length > 1) return 'was handled twice';
    if (attempts.size < handled.length) return 'was handled twice in one attempt';
    if (isQuiet && handled.length > 1) return 'was handled twice without a fault';
    if (isQuiet && handled.length === 0) return 'was not handled';
    if (kind === 'published') return undefined;
    if (outcome === undefined) return 'has no outcome';
    if (isQuiet && outcome !== 'answered') return 'failed without a fault';
    if (outcome === 'answered' && handled.length === 0) return 'was answered but not handled';
    if (kind === 'request' && UNHANDLED.includes(outcome) && handled.length > 0) {
      return 'was handled, contrary to its outcome';
    }
    return undefined;
  }

  /** Whether no fault can have had an effect on a job: all connections, and all brokers, were undisturbed. */
  #isQuiet({ at, connection, settled = at }, workers) {
    const ids = [connection.id, ...workers];
    return (
      ids.every((id) => this.#history.isSteady(id, at, settled)) &&
      !this.#history.isDisturbed([...ids, ...this.#brokers], at - RECOVERY, settled + WINDOW)
    );
  }
}

module.exports = Jobs;
