// The dashboard: asks the broker for its figures once a second, while the page is visible, and shows them.

import { createCharts, createTiles } from './charts.js';
import { age, count, day, duration, time } from './format.js';
import { createTables, errorRows } from './tables.js';

/** Time between requests, and their time limit, in milliseconds. */
const EVERY = 1000;
const TIMEOUT = 5000;
/** Key of the token in the storage of the tab. */
const TOKEN = 'wsmsgbroker-token';
/** Maximum number of named brokers that have left the cluster. */
const MAX_LEFT = 5;
/** Milliseconds after which a broker has its final name. */
const SETTLED = 2000;
/** Maximum number of points of each time range, as in the broker. */
const MAX_POINTS = { seconds: 300, minutes: 360 };

const find = (id) => document.getElementById(id);
const isWall = new URLSearchParams(location.search).has('wall');
document.body.classList.toggle('wall', isWall);

/** The broker does not accept the token, or none was given. */
class Unauthorized extends Error {}

/** Sends a request; resolves with its JSON. */
async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const signal = AbortSignal.timeout(TIMEOUT);
  const response = await fetch(path, { ...options, headers, signal, cache: 'no-store' });
  if (response.status === 401) throw new Unauthorized();
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// History.

let started;
let history;

/** Adds the newer points of a reply to the history. */
function addPoints(reply) {
  const { figures, seconds, minutes, last } = reply.history;
  if (reply.started !== started) {
    started = reply.started;
    const empty = () => Object.fromEntries(['time', ...figures].map((name) => [name, []]));
    history = { last: 0, seconds: empty(), minutes: empty() };
  }
  for (const [name, rows] of Object.entries({ seconds, minutes })) {
    for (const [second, ...values] of rows) {
      history[name].time.push(started / 1000 + second);
      figures.forEach((figure, index) => {
        history[name][figure].push(values[index]);
      });
    }
    for (const values of Object.values(history[name])) {
      values.splice(0, Math.max(0, values.length - MAX_POINTS[name]));
    }
  }
  history.last = last;
  history.end = started / 1000 + last;
}

/** The figures of the last second. */
function current() {
  const { time: _, ...figures } = history.seconds;
  return Object.fromEntries(Object.entries(figures).map(([name, values]) => [name, values.at(-1)]));
}

// Disconnecting.

let asked;

function confirmDisconnect(row) {
  asked = row;
  find('confirm-id').textContent = row.id;
  find('confirm').showModal();
}

find('cancel').addEventListener('click', () => find('confirm').close());
find('disconnect').addEventListener('click', async () => {
  find('confirm').close();
  const { id } = asked;
  const headers = { 'Content-Type': 'application/json' };
  const body = JSON.stringify({ id });
  try {
    await ask('api/disconnect', { method: 'POST', headers, body });
    find('done').textContent = `Disconnected ${id}`;
  } catch (error) {
    find('done').textContent = `Could not disconnect ${id}: ${error.message}`;
  }
  poll();
});

// Showing.

const tables = createTables(find, confirmDisconnect);
const updateTiles = createTiles(find('tiles'));
const charts = createCharts(find('charts'));

function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Shows the state of the broker. `kind`: the color. */
function showState(text, kind) {
  setText(find('state'), text);
  find('state').className = kind;
  document.title = `wsmsgbroker: ${text}`;
}

function stateOf({ state, drain, cluster }) {
  if (drain !== null) return [`draining, ${age(drain)} left`, 'warn'];
  if (state !== 'ready') return [state, 'warn'];
  if (cluster && !cluster.connected) return ['ready, cluster unreachable', 'warn'];
  return ['ready', 'good'];
}

/** When this page has seen each broker first and last; and the last times of those that have left. */
const seen = new Map();
const left = new Map();

/** The brokers that have left the cluster since this page was opened, newest first. */
function leftBrokers({ connected, brokers, names }) {
  // Without NATS, or of a very large cluster, the names are incomplete.
  if (connected && brokers === names.length) {
    const now = Date.now();
    for (const name of names) {
      left.delete(name);
      seen.set(name, { first: seen.get(name)?.first ?? now, last: now });
    }
    for (const [name, { first, last }] of seen) {
      if (last === now) continue;
      seen.delete(name);
      if (last - first > SETTLED) left.set(name, last);
    }
    while (left.size > MAX_LEFT) left.delete(left.keys().next().value);
  }
  return [...left].reverse().map(([name, last]) => `${name} (last seen ${time(last)})`);
}

function showCluster(cluster) {
  find('cluster-card').hidden = !cluster;
  if (!cluster) return;
  const gone = leftBrokers(cluster);
  const facts = [
    ['NATS', cluster.connected ? 'connected' : 'unreachable'],
    ['Brokers', `${count(cluster.brokers)}: ${cluster.names.join(', ')}`],
    ...(gone.length > 0 ? [['No longer there', gone.join(', ')]] : []),
    ['Messages from other brokers', count(cluster.received)],
    ['Failed because NATS was unreachable', count(cluster.unreachable)],
    ['Lost connections to NATS', count(cluster.disconnects)],
  ];
  const items = facts.map(([name, text]) => {
    const item = document.createElement('div');
    const [term, value] = [document.createElement('dt'), document.createElement('dd')];
    term.textContent = name;
    value.textContent = text;
    item.append(term, value);
    return item;
  });
  find('cluster').replaceChildren(...items);
}

/** Prefix of the topics shown. Without one they are updated. */
let topicPrefix = '';

async function showTopics() {
  const prefix = topicPrefix;
  const { topics, more } = await ask(`api/topics?prefix=${encodeURIComponent(prefix)}`);
  if (prefix !== topicPrefix) return;
  tables.topics(topics);
  setText(find('topic-count'), more ? `The first ${topics.length}` : '');
}

find('search-topics').addEventListener('submit', (event) => {
  event.preventDefault();
  topicPrefix = find('topic').value;
  showTopics().catch(({ message }) =>
    setText(find('topic-count'), `The search failed: ${message}`),
  );
});

function show(stats, connections) {
  addPoints(stats);
  find('login').hidden = true;
  find('lost').hidden = true;
  find('board').hidden = false;
  document.body.classList.remove('stale');
  setText(find('version'), stats.version);
  setText(find('since'), `${day(stats.started)} (${age(stats.uptime)})`);
  showState(...stateOf(stats));
  if (history.seconds.time.length) {
    const now = current();
    setText(find('lag'), now.hostLag > 0 ? duration(now.hostLag) : '0 ms');
    find('lag').classList.toggle('bad', now.hostLag > 1);
    updateTiles(now, stats, history);
    charts.update(history);
  }
  if (!connections) return;
  const { canDisconnect } = stats;
  tables.worst(tables.addRates(connections), canDisconnect);
  tables.closed(connections.closed);
  tables.errors(errorRows(stats.errors));
  const facts = Object.entries(stats.subscriptions).map(([name, n]) => `${count(n)} ${name}`);
  setText(find('subscriptions'), facts.join(', '));
  showCluster(stats.cluster);
  isAllowed = canDisconnect;
  isClustered = stats.cluster !== null;
}

let isAllowed = false;
let isClustered = false;
let answered;

function showLost() {
  const since = answered ? ` Last figures from ${time(answered)}.` : '';
  setText(find('lost'), `The broker does not answer.${since} Trying again every second.`);
  find('lost').hidden = false;
  document.body.classList.add('stale');
  showState('no answer', 'bad');
}

function showLogin() {
  const isRefused = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  find('board').hidden = true;
  find('lost').hidden = true;
  find('login').hidden = false;
  setText(find('refusal'), isRefused ? 'The broker did not accept this token.' : '');
  showState('token required', 'warn');
  find('token').focus();
}

find('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, find('token').value.trim());
  find('token').value = '';
  poll();
});

// Search.

/** The result of a search for an id at all brokers, as a text. */
function placeOf({ isHere, node, connected, silent }) {
  if (isHere) return `At this broker, ${node}`;
  if (node !== null) return `At broker ${node}`;
  if (!connected) return 'NATS is unreachable: only this broker was searched';
  const missing = silent.length > 0 ? `; no answer from ${silent.join(', ')}` : '';
  return `At no broker${missing}`;
}

let searches = 0;

/** Shows which broker of the cluster has an id. */
async function locate(id) {
  searches += 1;
  const number = searches;
  let text = '';
  if (isClustered && id) {
    setText(find('place'), 'Asking the other brokers');
    try {
      text = placeOf(await ask(`api/find?id=${encodeURIComponent(id)}`));
    } catch (error) {
      text = `The search at other brokers failed: ${error.message}`;
    }
  }
  // The result of an earlier search may arrive later.
  if (number === searches) setText(find('place'), text);
}

find('search').addEventListener('submit', async (event) => {
  event.preventDefault();
  const prefix = find('prefix').value;
  locate(prefix);
  try {
    const { found, more } = await ask(`api/find?prefix=${encodeURIComponent(prefix)}`);
    find('found').hidden = false;
    tables.found(found, isAllowed);
    const number = found.length === 1 ? '1 id' : `${found.length} ids`;
    setText(find('count'), more ? `The first ${number}; there are more` : number);
  } catch (error) {
    setText(find('count'), `The search failed: ${error.message}`);
  }
});

// Time range.

for (const button of document.querySelectorAll('[data-range]')) {
  button.addEventListener('click', () => {
    for (const each of document.querySelectorAll('[data-range]')) {
      each.setAttribute('aria-pressed', String(each === button));
    }
    charts.setRange(button.dataset.range);
  });
}

// Polling.

let timer;
let isPolling = false;

async function poll() {
  clearTimeout(timer);
  if (isPolling || document.hidden) return;
  isPolling = true;
  const begun = performance.now();
  let goesOn = true;
  try {
    const stats = ask(`api/stats?since=${history?.last ?? 0}`);
    const connections = isWall ? null : ask('api/connections');
    const topics = isWall || topicPrefix ? null : showTopics();
    const [reply, list] = await Promise.all([stats, connections, topics]);
    // A broker that was started again counts its seconds anew.
    const isOther = history && reply.started !== started;
    show(isOther ? await ask('api/stats') : reply, list);
    answered = Date.now();
  } catch (error) {
    if (error instanceof Unauthorized) {
      goesOn = false;
      showLogin();
    } else {
      showLost();
    }
  }
  isPolling = false;
  if (goesOn && !document.hidden) {
    timer = setTimeout(poll, Math.max(0, EVERY - (performance.now() - begun)));
  }
}

document.addEventListener('visibilitychange', poll);
poll();
