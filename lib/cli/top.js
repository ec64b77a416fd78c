'use strict';

// The subcommand `top`: shows the figures of a broker and its slow receivers in the terminal, from its admin endpoint.

const { setTimeout: sleep } = require('node:timers/promises');
const { escapeUnprintable, printable } = require('../printable');
const { SUCCESS, UsageError } = require('./exit');
const { readToken } = require('./connect');

const describe = `Usage: wsmsgbroker top [url] [options]

Shows figures, slow receivers and closed connections of a broker once a second, from its admin
endpoint (http://127.0.0.1:9464). Ends with Ctrl-C. Prints once if the output is no terminal.

  --token-file <file>   token of the admin endpoint (admin.token): the first line of this file;
                        without it the variable WSMB_TOKEN
`;

const DEFAULT_URL = 'http://127.0.0.1:9464';
const INTERVAL = 1000;
/** Time limit of a request, in milliseconds. */
const TIMEOUT = 5000;
/** Rows of each table. */
const ROWS = 10;

const options = { 'token-file': { type: 'string' } };

/** The response of a path of the endpoint. */
async function get(url, path, token) {
  const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(new URL(path, url), { headers, signal: AbortSignal.timeout(TIMEOUT) });
  } catch (error) {
    throw new Error(`${url}: ${error.cause?.message ?? error.message}`);
  }
  if (!response.ok) {
    throw new Error(`${url}: ${(await response.text()).slice(0, 200)}`);
  }
  return response.json();
}

const number = (value) => (value === null ? '-' : Math.round(value).toLocaleString('en-US'));

function bytes(value) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  const unit = value < 1000 ? 0 : Math.min(Math.floor(Math.log10(value) / 3), 4);
  return `${(value / 1000 ** unit).toFixed(unit === 0 ? 0 : 1)} ${units[unit]}`;
}

/** A time in seconds. */
function duration(value) {
  if (value === null) return '-';
  if (value >= 60) return `${Math.floor(value / 60)} min`;
  return value >= 1 ? `${value.toFixed(1)} s` : `${(value * 1000).toFixed(1)} ms`;
}

/** A time in milliseconds; null if there is none. */
const millis = (value) => duration(value === null ? null : value / 1000);

/** Aligns rows of texts in columns; the first is on the left, the others on the right. */
function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    row
      .map((text, column) =>
        column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]),
      )
      .join('  '),
  );
}

/** A text of a peer, shortened. */
const shown = (text, length = 40) => {
  const safe = printable(text ?? '-');
  return safe.length > length ? `${safe.slice(0, length - 1)}…` : safe;
};

/** The lines for the responses of `/api/stats` and `/api/connections`. */
function render(stats, { worst, closed }) {
  const { figures, seconds } = stats.history;
  const last = seconds.at(-1) ?? [];
  const at = Object.fromEntries(figures.map((name, index) => [name, last[index + 1] ?? null]));
  const { cluster, subscriptions } = stats;
  const lines = [
    `wsmsgbroker ${stats.version}  ${stats.state}  up ${duration(stats.uptime)}  JavaScript behind by ${duration(at.hostLag ?? 0)}`,
    '',
    `connections ${number(at.connections)} of ${number(stats.limits.connections)}   ids ${number(at.ids)}   opened ${number(at.opened)}/s   closed ${number(at.closed)}/s   refused ${number(at.refused)}/s`,
    `messages    ${number(at.messagesIn)}/s in   ${number(at.messagesOut)}/s out   ${bytes(at.bytesIn ?? 0)}/s in   ${bytes(at.bytesOut ?? 0)}/s out`,
    `requests    ${number(at.pending)} pending   p50 ${duration(at.requestP50)}   p99 ${duration(at.requestP99)}`,
    `queues      ${bytes(at.outboxBytes ?? 0)}   senders held ${number(at.sendersHeld)}   memory ${bytes(at.memory ?? 0)} of ${bytes(stats.limits.memory)}`,
    `topics      ${number(subscriptions.topics)}   patterns ${number(subscriptions.patterns)}   subscriptions ${number(subscriptions.subscriptions)}   members ${number(subscriptions.members)}`,
  ];
  if (cluster) {
    const state = cluster.connected ? 'connected' : 'disconnected';
    lines.push(`cluster     ${state}   brokers ${number(cluster.brokers)}`);
  }
  if (worst.length > 0) {
    const rows = worst
      .slice(0, ROWS)
      .map(({ id, address, waiting, blocked, senders, blocking, bytesOut, messages, age }) => [
        shown(id),
        address ?? '-',
        bytes(waiting),
        millis(blocked),
        number(senders),
        millis(blocking),
        bytes(bytesOut),
        number(messages),
        duration(age),
      ]);
    const head = ['slow receiver', 'address', 'queued', 'blocked', 'senders held', 'for'];
    head.push('sent', 'messages', 'open');
    lines.push('', ...table([head, ...rows]));
  }
  if (closed.length > 0) {
    const rows = closed
      .slice(0, ROWS)
      .map(({ id, address, reason, code, age }) => [
        shown(id),
        address ?? '-',
        reason,
        code === null ? '-' : String(code),
        duration(age),
      ]);
    lines.push('', ...table([['closed', 'address', 'reason', 'code', 'open'], ...rows]));
  }
  return lines;
}

async function run(values, positionals) {
  const [url = DEFAULT_URL, ...rest] = positionals;
  if (rest.length > 0 || !/^https?:\/\//.test(url) || !URL.canParse(url)) {
    throw new UsageError('expected the http:// address of the admin endpoint');
  }
  const token = readToken(values);
  const isTerminal = process.stdout.isTTY;
  let isFirst = true;
  for (;;) {
    let lines;
    try {
      const [stats, connections] = await Promise.all([
        get(url, 'api/stats', token),
        get(url, 'api/connections', token),
      ]);
      lines = render(stats, connections);
      isFirst = false;
    } catch (error) {
      // A broker that was there may come back.
      if (isFirst) throw error;
      lines = [escapeUnprintable(error.message)];
    }
    if (!isTerminal) {
      process.stdout.write(`${lines.join('\n')}\n`);
      return SUCCESS;
    }
    // Both are 0 where the terminal does not know its size.
    const { columns, rows } = process.stdout;
    const visible = lines.slice(0, (rows || 24) - 1).map((line) => line.slice(0, columns || 80));
    process.stdout.write(`\x1b[H\x1b[2J${visible.join('\n')}\n`);
    await sleep(INTERVAL);
  }
}

module.exports = { options, describe, run };
