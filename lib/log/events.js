'use strict';

// The events that a server writes to its log: their levels, messages and diagnostics channels. The guide
// docs/guides/monitoring.md lists them.

/** The levels of a log in their order. */
const LEVELS = ['debug', 'info', 'warn', 'error'];

/**
 * By event: its message, its level, and the end of the name of its channel, if it has one. A level is a string, or
 * `[member, levels, otherwise]`: the level by the value of this member.
 */
const EVENTS = {
  __proto__: null,
  listening: { message: 'server is listening', level: 'info' },
  admin_listening: { message: 'admin endpoint is listening', level: 'info' },
  connection: { message: 'connection opened', level: 'debug', channel: 'connection:open' },
  disconnected: {
    message: 'connection closed',
    level: [
      'reason',
      {
        client: 'debug',
        going_away: 'debug',
        requested: 'debug',
        lost: 'info',
        dead: 'info',
        denied: 'info',
      },
      'warn',
    ],
    channel: 'connection:close',
  },
  registered: { message: 'id registered', level: 'debug', channel: 'register' },
  taken_over: { message: 'id taken over from another connection', level: 'info' },
  resumed: { message: 'session continues on another connection', level: 'debug' },
  unregistered: { message: 'id unregistered', level: 'debug', channel: 'unregister' },
  refused: {
    message: 'handshake refused',
    level: ['status', { 503: 'warn', tls: 'warn' }, 'info'],
    channel: 'refused',
  },
  denied: { message: 'registration denied', level: 'warn' },
  slow: { message: 'slow consumer', level: 'warn', channel: 'slow' },
  invalid_action: { message: 'invalid action', level: 'warn' },
  unknown_id: { message: 'message to an unknown id', level: 'debug' },
  cluster: {
    message: 'state of the cluster',
    level: ['state', { connected: 'info', failed: 'error', missing: 'error' }, 'warn'],
    channel: 'cluster',
  },
  dropped: { message: 'events were dropped, because the event loop was blocked', level: 'warn' },
  failure: { message: 'operation failed', level: 'error' },
  closing: { message: 'server is closing', level: 'info' },
  closed: { message: 'server is closed', level: 'info' },
};

/** The level of an event with these members. */
function levelOf({ level }, members) {
  if (typeof level === 'string') {
    return level;
  }
  const [member, levels, otherwise] = level;
  const value = members[member];
  return Object.hasOwn(levels, value) ? levels[value] : otherwise;
}

/** All levels that an event may have. */
function levelsOf({ level }) {
  return typeof level === 'string' ? [level] : [...Object.values(level[1]), level[2]];
}

module.exports = { EVENTS, LEVELS, levelOf, levelsOf };
