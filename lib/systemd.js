'use strict';

// The protocol of systemd, for the command line: sockets that it passes, and notifications (sd_notify). Without
// NOTIFY_SOCKET no notification is sent.

const { notifySystemd } = require('./native');
const ServerImpl = require('./server/serverImpl');

/** The first descriptor that systemd passes. */
const FIRST_DESCRIPTOR = 3;

const isWhole = (text) => /^\d+$/.test(text ?? '');
const quoted = (names) => names.map((name) => `"${name}"`).join(', ');

/** The descriptor of a socket that systemd has passed. `name`: its FileDescriptorName, needed for one of several. */
function findSocket(name, { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = process.env) {
  if (!isWhole(LISTEN_PID) || !isWhole(LISTEN_FDS)) {
    throw new Error(
      'systemd has passed no socket (LISTEN_FDS): start the socket unit of the broker',
    );
  }
  if (Number(LISTEN_PID) !== process.pid) {
    throw new Error(
      `systemd has passed its sockets to process ${LISTEN_PID} (LISTEN_PID), and this is process ` +
        `${process.pid}: ExecStart must start node itself, not npx, npm or a shell`,
    );
  }
  const given = LISTEN_FDNAMES?.split(':') ?? [];
  const names = Array.from({ length: Number(LISTEN_FDS) }, (_, n) => given[n] ?? 'unknown');
  const found = [...names.keys()].filter((n) => name === undefined || names[n] === name);
  if (found.length !== 1) {
    const wanted = name === undefined ? 'one socket (select it by systemd:NAME)' : `one "${name}"`;
    throw new Error(
      `systemd has passed the sockets ${quoted(names) || 'none'}, expected ${wanted}`,
    );
  }
  return FIRST_DESCRIPTOR + found[0];
}

/** The interval of keep-alive notifications in milliseconds: half the time after which systemd ends the process. */
function keepAliveInterval({ WATCHDOG_USEC, WATCHDOG_PID = `${process.pid}` }) {
  const isOn = isWhole(WATCHDOG_USEC) && Number(WATCHDOG_USEC) > 0;
  return isOn && Number(WATCHDOG_PID) === process.pid ? Number(WATCHDOG_USEC) / 2000 : undefined;
}

/** Notifies systemd of the states of a broker. */
class Notifier {
  #address;
  #interval;
  #report;
  #isReady = false;
  #isStopping = false;

  /** `report`: called with a message if a notification cannot be sent. */
  constructor(report, env = process.env) {
    this.#report = report;
    this.#address = env.NOTIFY_SOCKET || undefined;
    this.#interval = keepAliveInterval(env);
  }

  /** Sends assignments. Line ends in their values are replaced. */
  #notify(assignments) {
    if (this.#address === undefined) {
      return;
    }
    const lines = Object.entries(assignments).map(
      ([name, value]) => `${name}=${String(value).replace(/\s+/g, ' ')}`,
    );
    try {
      notifySystemd(this.#address, lines.join('\n'));
    } catch (error) {
      this.#report(`cannot notify systemd: ${error.message}`);
    }
  }

  /** A short text for `systemctl status`. */
  status(text) {
    this.#notify({ STATUS: text });
  }

  /** The server listens. From now on its threads send keep-alive notifications, if systemd expects them. */
  ready(server, text) {
    this.#isReady = true;
    this.#notify({ READY: 1, STATUS: text });
    if (this.#address !== undefined && this.#interval !== undefined) {
      server[ServerImpl.key].keepAlive(this.#address, this.#interval);
    }
  }

  /** Calls a function that reads the configuration again. */
  reload(read) {
    // `READY=1` after it would be wrong otherwise.
    const isAnnounced = this.#isReady && !this.#isStopping;
    if (isAnnounced) {
      // The clock of systemd, CLOCK_MONOTONIC.
      this.#notify({ RELOADING: 1, MONOTONIC_USEC: process.hrtime.bigint() / 1000n });
    }
    try {
      read();
    } finally {
      if (isAnnounced) {
        this.#notify({ READY: 1 });
      }
    }
  }

  /** The broker begins to close, and needs at most `within` milliseconds. */
  stopping(text, within) {
    this.#isStopping = true;
    this.#notify({ STOPPING: 1, STATUS: text, EXTEND_TIMEOUT_USEC: within * 1000 });
  }
}

module.exports = { Notifier, findSocket };
