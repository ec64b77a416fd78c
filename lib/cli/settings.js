'use strict';

// The settings of a broker from a file and from the environment, as flags of the command line, which take precedence.

const fs = require('node:fs');
const { parseArgs } = require('node:util');
const closest = require('../closest');
const { FLAGS } = require('../flags');
const { UsageError } = require('./exit');
const { PlaceError, parseJson } = require('./jsonText');

/** Settings that are not options of a server: the arguments, the times of a stop, and the log. */
const OTHERS = [
  { name: 'port', option: 'port' },
  { name: 'path', option: 'path' },
  { name: 'drain', option: 'drain' },
  { name: 'drain-delay', option: 'drainDelay' },
  { name: 'log', option: 'log' },
  { name: 'log-level', option: 'logLevel' },
];

const SETTINGS = [...FLAGS, ...OTHERS];

/** The beginning of all variables. */
const PREFIX = 'WSMB_';

/** Variables of clients. */
const OTHER_VARIABLES = ['WSMB_TOKEN'];

/** The variable of a flag: `WSMB_MAX_PAYLOAD` for `max-payload`. */
const variableOf = (name) => `${PREFIX}${name.toUpperCase().replaceAll('-', '_')}`;

/** The text of a value in a file, as a flag takes it. */
function textOf(value) {
  if (Array.isArray(value)) {
    return JSON.stringify(value);
  }
  if (typeof value === 'boolean') {
    return value ? 'yes' : 'no';
  }
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}

/** Reads a file of settings. Returns texts by the name of their flag, and its places. Throws a UsageError. */
function readFile(file) {
  let parsed;
  try {
    parsed = parseJson(fs.readFileSync(file, 'utf8').replace(/^\uFEFF/, ''));
  } catch (error) {
    throw new UsageError(error instanceof PlaceError ? `${file}:${error.message}` : error.message);
  }
  const settings = new Map();
  const places = new Map();
  const read = (members, prefix) => {
    for (const [key, value] of Object.entries(members)) {
      const option = prefix + key;
      const place = `${file}:${parsed.places.get(option)}`;
      const setting = SETTINGS.find((each) => each.option === option);
      const isGroup = SETTINGS.some((each) => each.option.startsWith(`${option}.`));
      if (isGroup && typeof value === 'object' && value !== null && !Array.isArray(value)) {
        if (Object.keys(value).length === 0) {
          throw new UsageError(`${place}: "${option}" is empty`);
        }
        read(value, `${option}.`);
        continue;
      }
      if (setting === undefined) {
        const names = SETTINGS.map((each) => each.option);
        const meant = closest(option, names);
        const advice = meant ? `, did you mean "${meant}"?` : '';
        throw new UsageError(`${place}: unknown setting "${option}"${advice}`);
      }
      const isList = setting.isRepeatable || option === 'trustProxy';
      const values = isList ? [value].flat() : [value];
      const texts = option === 'trustProxy' ? [values.map(textOf).join(',')] : values.map(textOf);
      if (texts.includes(undefined)) {
        throw new UsageError(`${place}: "${option}" must be a string, a number, true or false`);
      }
      settings.set(setting.name, texts);
      places.set(setting.name, place);
    }
  };
  if (typeof parsed.value !== 'object' || parsed.value === null || Array.isArray(parsed.value)) {
    throw new UsageError(`${file}: expected an object`);
  }
  read(parsed.value, '');
  return { settings, places };
}

/** Adds the settings of the environment. Several values of one are separated by commas. */
function addEnvironment({ settings, places }, env) {
  for (const { name, isRepeatable } of SETTINGS) {
    const text = env[variableOf(name)];
    if (text !== undefined && text !== '') {
      settings.set(name, isRepeatable ? text.split(',') : [text]);
      places.set(name, variableOf(name));
    }
  }
}

/** Throws a UsageError if a variable is not that of a setting, and its name is similar to one. */
function checkEnvironment(env = process.env) {
  const known = SETTINGS.map(({ name }) => variableOf(name));
  for (const variable of Object.keys(env)) {
    if (!variable.startsWith(PREFIX) || [...known, ...OTHER_VARIABLES].includes(variable)) continue;
    // Without the prefix, which all names share.
    const meant = closest(
      variable.slice(PREFIX.length),
      known.map((name) => name.slice(PREFIX.length)),
    );
    if (meant !== undefined) {
      throw new UsageError(`unknown variable ${variable}, did you mean ${PREFIX}${meant}?`);
    }
  }
}

/**
 * Adds settings from `--config <file>` and from the environment to the arguments of `serve`. Returns the arguments of
 * `wsbrokerserver`, and where each setting comes from: `{ args, places }`.
 */
function withSettings(args, env = process.env) {
  const given = [...args];
  const at = given.findIndex((each) => each === '--config' || each.startsWith('--config='));
  let found = { settings: new Map(), places: new Map() };
  let file;
  if (at >= 0) {
    const [flag] = given.splice(at, 1);
    file = flag === '--config' ? given.splice(at, 1)[0] : flag.slice('--config='.length);
    if (!file || file.startsWith('-')) {
      throw new UsageError('--config expects a file');
    }
    if (given.some((each) => /^--config(?:=|$)/.test(each))) {
      throw new UsageError('--config is there twice');
    }
    found = readFile(file);
  }
  addEnvironment(found, env);
  const { positionals, values } = parseServe(given, false);
  const isGiven = (name) => values[name] !== undefined;
  const isRun = !['help', 'h', 'version', 'v'].some(isGiven);
  if (file !== undefined && isRun && positionals.length === 0 && !found.settings.has('port')) {
    throw new UsageError(`${file}: "port" is missing, as are the argument <port> and WSMB_PORT`);
  }
  // A path is not used without a port.
  const names = ['port', 'path'].slice(positionals.length);
  const missing = names.map((name) => found.settings.get(name)?.[0]);
  for (const name of found.places.keys()) {
    if (isGiven(name)) found.places.delete(name);
  }
  const flags = [...found.settings].flatMap(([name, texts]) =>
    name === 'port' || name === 'path' || isGiven(name)
      ? []
      : texts.map((text) => `--${name}=${text}`),
  );
  const last = missing.slice(0, missing.includes(undefined) ? missing.indexOf(undefined) : 2);
  // Behind `--` everything is an argument.
  return { args: [...flags, ...given, ...last], places: found.places };
}

/** Parses the arguments of `wsbrokerserver`. */
function parseServe(args, strict = true) {
  const options = Object.fromEntries(
    [...FLAGS, ...OTHERS.filter(({ name }) => name !== 'port' && name !== 'path')].map(
      ({ name, isRepeatable }) => [name, { type: 'string', multiple: isRepeatable ?? false }],
    ),
  );
  return parseArgs({ args, options, strict, allowPositionals: true });
}

module.exports = { checkEnvironment, parseServe, withSettings };
