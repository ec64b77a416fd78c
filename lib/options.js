'use strict';

// The names and types of all options. Their defaults and ranges are the core's (src/options.rs).

const { coded } = require('./errors');

const SERVER = {
  port: 'any',
  host: 'string',
  path: 'any',
  threads: 'number',
  maxPayload: 'number',
  maxBackpressure: 'number',
  slowConsumer: 'pushback',
  slowConsumerTimeout: 'number',
  maxConnections: 'number',
  maxIdLength: 'number',
  maxDest: 'number',
  maxHeaderSize: 'number',
  handshakeTimeout: 'number',
  closeTimeout: 'number',
  ackTimeout: 'number',
  maxPendingAcks: 'number',
};

const CLIENT = {
  maxPayload: 'number',
  highWaterMark: 'number',
  maxQueued: 'number',
  connectTimeout: 'number',
  closeTimeout: 'number',
};

/** The options that are set; a TypeError names one that is unknown or of a wrong type. */
function check(options, known) {
  const checked = {};
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(known, name)) {
      throw coded('ERR_WSMB_OPTION', `unknown option "${name}"`, TypeError);
    }
    if (value === undefined) {
      continue;
    }
    const type = known[name];
    if (type === 'number' && !(typeof value === 'number' && value >= 0)) {
      throw wrong(name, 'a number that is not negative', value);
    }
    if (type === 'string' && typeof value !== 'string') {
      throw wrong(name, 'a string', value);
    }
    if (type === 'pushback' && value !== 'pushback') {
      throw wrong(name, "'pushback'", value);
    }
    checked[name] = value;
  }
  return checked;
}

function wrong(name, expected, value) {
  const found = typeof value === 'string' ? `'${value}'` : String(value);
  return coded('ERR_WSMB_OPTION', `option "${name}" is ${found}, expected ${expected}`, TypeError);
}

/** An argument that must be an object if it is there. */
function object(options) {
  if (options === undefined || options === null) {
    return {};
  }
  if (typeof options !== 'object') {
    throw coded('ERR_WSMB_OPTION', `options is ${String(options)}, expected an object`, TypeError);
  }
  return options;
}

module.exports = {
  checkServer: (options) => check(object(options), SERVER),
  checkClient: (options) => check(object(options), CLIENT),
  serverOptions: Object.keys(SERVER),
};
