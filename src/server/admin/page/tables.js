// The tables. Ids and addresses come from clients: they are only ever set as text.

import { age, bytes, count, time } from './format.js';

/** A cell: title of the column, its text, and its class. */
const ID = ['Id', ({ id }) => id ?? '(none)', 'id'];
const ADDRESS = ['Address', ({ address }) => address ?? '–', 'address'];
const OPEN = ['Open for', (row) => age(row.age), 'number age'];

const CONNECTION = [
  ID,
  ADDRESS,
  ['Queued', ({ waiting }) => bytes(waiting), 'number queued'],
  ['Senders held', ({ senders }) => count(senders), 'number'],
  ['Sent', ({ bytesOut }) => bytes(bytesOut), 'number minor'],
  ['Messages', ({ messages }) => count(messages), 'number minor'],
  OPEN,
  ['Protocol', ({ protocol }) => String(protocol), 'number minor'],
];

const FOUND = CONNECTION.filter(([title]) =>
  ['Id', 'Address', 'Queued', 'Open for'].includes(title),
);

const CLOSED = [
  ['Closed', ({ at }) => time(at), ''],
  ID,
  ADDRESS,
  ['Reason', ({ reason, code }) => `${reason.replaceAll('_', ' ')}${code ? ` (${code})` : ''}`, ''],
  OPEN,
  ['Messages', ({ messages }) => count(messages), 'number minor'],
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
          if (className === 'id') td.title = value;
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

/** Creates all tables; returns the functions that show their rows. */
export function createTables(find, onDisconnect) {
  const keyOf = ({ key }) => key;
  return {
    worst: createTable(find('worst'), CONNECTION, {
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
