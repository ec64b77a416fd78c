// The tables. Ids and addresses come from clients: they are only ever set as text.

import { age, bytes, count, duration, time } from './format.js';

/** A cell: title of the column, its text, and its class. */
const ID = ['Id', ({ id }) => id ?? '(none)', 'id'];
const ADDRESS = ['Address', ({ address }) => address ?? '–', 'address'];
const OPEN = ['Open for', (row) => age(row.age), 'number age'];

const QUEUED = ['Queued', ({ waiting }) => bytes(waiting), 'number queued'];

/** A time in milliseconds, in seconds with one digit. */
const seconds = (millis) => duration(millis === null ? null : Math.round(millis / 100) / 10);

const WORST = [
  ID,
  ADDRESS,
  QUEUED,
  ['Blocked for', ({ blocked }) => seconds(blocked), 'number'],
  [
    'Senders held',
    ({ senders, blocking }) => (senders ? `${count(senders)} for ${seconds(blocking)}` : '0'),
    'number',
  ],
  ['In/s', ({ rates }) => count(rates?.received), 'number minor'],
  ['Out/s', ({ rates }) => count(rates?.sent), 'number minor'],
  ['Sent', ({ bytesOut }) => bytes(bytesOut), 'number minor'],
  OPEN,
  ['Protocol', ({ protocol }) => String(protocol), 'number minor'],
];

/** A held sender waits for a receiver. */
const waitsFor = ({ held, heldBy }) =>
  held === null ? '–' : `${heldBy ?? '(none)'} (${seconds(held)})`;

const FOUND = [ID, ADDRESS, QUEUED, ['Waits for', waitsFor, 'other id'], OPEN];

const CLOSED = [
  ['Closed', ({ at }) => time(at), ''],
  ID,
  ADDRESS,
  ['Reason', ({ reason, code }) => `${reason.replaceAll('_', ' ')}${code ? ` (${code})` : ''}`, ''],
  OPEN,
  ['Messages', ({ messages }) => count(messages), 'number minor'],
];

const groupsOf = ({ groups, groupCount }) =>
  groups
    .map(({ name, members, waiting }) => `${name}: ${count(members)}, ${count(waiting)} waiting`)
    .concat(groupCount > groups.length ? `${count(groupCount - groups.length)} more` : [])
    .join('; ') || '–';

const TOPICS = [
  ['Topic', ({ topic }) => topic, 'id'],
  ['Subscribers', ({ subscribers }) => count(subscribers), 'number'],
  ['Groups', groupsOf, 'other id'],
];

const ERRORS = [
  ['Error', ({ name }) => name, ''],
  ['Count', (row) => count(row.count), 'number'],
  ['Newest', ({ newest }) => newest, 'number'],
];

/** Text in front of the code of an error, by its kind. */
const KINDS = { action: 'Action: ', handshake: 'Handshake: ', message: 'Not delivered: ' };

function cell(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Adds a child at the end, or removes it. A child that is moved would lose the focus. */
function setPresent(parent, child, isPresent) {
  if (!isPresent) child.remove();
  else if (child.parentNode !== parent) parent.append(child);
}

/**
 * Fills a table; returns the function that shows rows. A row stays the same element while its key is there, so that
 * its button keeps the focus.
 */
function createTable(table, columns, { empty, keyOf, onDisconnect }) {
  const head = table.createTHead().insertRow();
  for (const [title, , className] of columns) {
    const th = cell('th', title, className);
    th.scope = 'col';
    head.append(th);
  }
  const action = cell('th', 'Action', 'action');
  action.scope = 'col';
  const body = table.createTBody();
  const none = cell('td', empty, 'empty');
  const noneRow = document.createElement('tr');
  noneRow.append(none);
  const known = new Map();

  function create(row) {
    const element = document.createElement('tr');
    for (const [, , className] of columns) element.append(cell('td', '', className));
    const made = { element, row };
    if (onDisconnect) {
      const button = cell('button', 'Disconnect', 'small');
      button.type = 'button';
      button.addEventListener('click', () => onDisconnect(made.row));
      const td = cell('td', '', 'action');
      td.append(button);
      made.button = button;
      made.action = td;
    }
    return made;
  }

  return (rows, canDisconnect = false) => {
    const hasAction = Boolean(onDisconnect) && canDisconnect;
    setPresent(head, action, hasAction);
    none.colSpan = columns.length + (hasAction ? 1 : 0);
    const most = Math.max(1, ...rows.map(({ waiting = 0 }) => waiting));
    const keys = new Set();
    let place = body.firstChild;
    for (const row of rows) {
      const key = keyOf(row);
      keys.add(key);
      let made = known.get(key);
      if (!made) {
        made = create(row);
        known.set(key, made);
      }
      made.row = row;
      columns.forEach(([, text, className], index) => {
        const td = made.element.cells[index];
        const value = text(row);
        if (td.textContent !== value) {
          td.textContent = value;
          if (className.endsWith('id')) td.title = value;
        }
        if (className.endsWith('queued')) {
          td.style.setProperty('--part', `${Math.round((row.waiting / most) * 100)}%`);
        }
      });
      if (made.button) {
        setPresent(made.element, made.action, hasAction);
        made.button.hidden = !row.isOwner || row.isClosing;
        made.button.setAttribute('aria-label', `Disconnect ${row.id}`);
      }
      if (place === made.element) {
        place = place.nextSibling;
      } else {
        const hadFocus = made.element.contains(document.activeElement);
        body.insertBefore(made.element, place);
        if (hadFocus) made.button.focus();
      }
    }
    for (const [key, { element }] of known) {
      if (keys.has(key)) continue;
      element.remove();
      known.delete(key);
    }
    setPresent(body, noneRow, rows.length === 0);
  };
}

/**
 * Returns a function that adds to the rows of a list the messages per second since the list before. `at`: the time of
 * the list in milliseconds; the broker repeats a list that is asked for too early.
 */
export function createRates() {
  let before = { at: 0, rows: new Map() };
  return ({ at, worst }) => {
    if (at !== before.at) {
      const elapsed = (at - before.at) / 1000;
      const rows = worst.map((row) => {
        const { key, messages, messagesOut } = row;
        const former = before.rows.get(key);
        const isSame = former && elapsed > 0 && former.messages <= messages;
        const rates = isSame && {
          received: (messages - former.messages) / elapsed,
          // A counter of 32 bits.
          sent: ((messagesOut - former.messagesOut) >>> 0) / elapsed,
        };
        return [key, { messages, messagesOut, rates }];
      });
      before = { at, rows: new Map(rows) };
    }
    return worst.map((row) => ({ ...row, rates: before.rows.get(row.key)?.rates }));
  };
}

/** Creates all tables; returns the functions that show their rows. */
export function createTables(find, onDisconnect) {
  const keyOf = ({ key }) => key;
  return {
    addRates: createRates(),
    worst: createTable(find('worst'), WORST, {
      empty: 'No connection has bytes queued.',
      keyOf,
      onDisconnect,
    }),
    closed: createTable(find('closed'), CLOSED, { empty: 'No connection was closed yet.', keyOf }),
    found: createTable(find('found'), FOUND, {
      empty: 'No id of this broker begins with that.',
      keyOf: ({ id }) => id,
      onDisconnect,
    }),
    topics: createTable(find('topics'), TOPICS, {
      empty: 'No topics.',
      keyOf: ({ topic }) => topic,
    }),
    errors: createTable(find('errors'), ERRORS, {
      empty: 'No errors.',
      keyOf: ({ name }) => name,
    }),
  };
}

/** The rows of the table of errors. */
export function errorRows(errors) {
  return errors.map(({ kind, code, count: total, ago }) => ({
    name: KINDS[kind] + (kind === 'message' ? code.replaceAll('_', ' ') : code),
    count: total,
    newest: ago === null ? '–' : `${age(ago)} ago`,
  }));
}
