'use strict';

// The arguments of the constructor of a client in Node.js: addresses and options.

const { coded, nativeError } = require('../errors');
const { NativeClient } = require('../native');
const { checkClient, withTrust } = require('../options');
const { encodePath } = require('../path');
const { findProxy } = require('../proxy');

/** The defaults of all options: those of the addon, and those that only JavaScript knows. */
const DEFAULTS = {
  ...NativeClient.defaults(),
  /** Undefined: version 2 where the broker has it, with the arguments and events of 1.7.2. */
  protocol: undefined,
  reconnect: false,
  resend: 'never',
  session: true,
  requestTimeout: 30_000,
};

/** Schemes of an address. `http:` and `https:` mean `ws:` and `wss:`, as in browsers. */
const SCHEMES = new Set(['ws:', 'wss:', 'http:', 'https:']);

const isMissing = (value) => value === undefined || value === null || value === '';

/**
 * Parses any form of the constructor's arguments. Returns the `targets`: of each address the host, port, path and
 * options for the addon, or a function that returns them for each attempt to connect; and the `settings` of the session.
 */
function parseArguments(id, host, port, path, options) {
  const isFunction = typeof host === 'function';
  if (isUrl(host) || isFunction || Array.isArray(host)) {
    if (host.length === 0 && !isFunction) {
      throw badAddress('[]');
    }
    return parseAll([host].flat(), port ?? {}, parseUrl);
  }
  // Without a port, or with options in its place, the host is meant as a URL.
  if (isMissing(port) || typeof port === 'object') {
    throw isMissing(host) || typeof host === 'object' ? noAddress(id) : badAddress(host);
  }
  if (typeof path === 'object' && path !== null && options === undefined) {
    return parseAll([{ host, port }], path, parseHost);
  }
  return parseAll([{ host, port, path }], options ?? {}, parseHost);
}

/** Parses all addresses, by this function, with these options. */
function parseAll(addresses, options, parse) {
  const { headers, ...others } = options;
  const hasHeaders = typeof headers === 'function';
  const given = hasHeaders ? others : options;
  const target = (address, checked) => ({
    ...parse(address, checked),
    isOnly: addresses.length === 1,
  });
  const targets = addresses.map((address) => {
    const isFunction = typeof address === 'function';
    // Mistakes are errors of the constructor.
    const fixed = isFunction ? undefined : target(address, given);
    const resolve = async () =>
      target(
        isFunction ? await address() : address,
        hasHeaders ? { ...others, headers: await headers() } : options,
      );
    return isFunction || hasHeaders ? resolve : fixed;
  });
  const checked = checkClient(given);
  // Checks ranges, although there may be no address yet.
  parseOptions(checked, '', 0);
  return { targets, settings: { ...DEFAULTS, ...checked } };
}

function parseHost({ host, port, path }, options) {
  const text = encodePath(path ? String(path) : '');
  return {
    path: text.startsWith('/') ? text : `/${text}`,
    ...parseOptions(checkClient(options), String(host), Number(port)),
  };
}

const isUrl = (value) => value instanceof URL || (typeof value === 'string' && /:\/\//.test(value));

function parseUrl(text, options) {
  let url;
  try {
    url = new URL(text);
  } catch {
    throw badAddress(text);
  }
  if (!SCHEMES.has(url.protocol)) {
    throw badAddress(text);
  }
  // Browsers refuse a fragment, even an empty one.
  if (url.href.includes('#')) {
    throw badAddress(text, 'without a fragment (#)');
  }
  const checked = checkClient(options);
  const isSecure = url.protocol === 'wss:' || url.protocol === 'https:';
  checked.tls ??= isSecure ? {} : false;
  if (isSecure !== Boolean(checked.tls)) {
    const address = `${url.protocol}//${url.host}`;
    const advice = isSecure ? 'remove the option, or use ws://' : 'use wss:// with it';
    const message = `option "tls" contradicts the URL "${address}": ${advice}`;
    throw coded('ERR_WSMB_OPTION', message, TypeError);
  }
  // A URL leaves out the default port of its scheme.
  const port = url.port === '' ? (isSecure ? 443 : 80) : Number(url.port);
  return {
    path: url.pathname + url.search,
    ...parseOptions(withCredentials(checked, url), url.hostname, port),
  };
}

/** Adds the user and password of a URL as the header `Authorization`, unless the options have this header. */
function withCredentials(checked, url) {
  const { username, password } = url;
  const names = Object.keys(checked.headers ?? {});
  if (
    (username === '' && password === '') ||
    names.some((name) => name.toLowerCase() === 'authorization')
  ) {
    return checked;
  }
  let credentials;
  try {
    credentials = [username, password].map(decodeURIComponent).join(':');
  } catch {
    throw badAddress(url, 'with user and password as valid URL escapes');
  }
  const authorization = `Basic ${Buffer.from(credentials).toString('base64')}`;
  return { ...checked, headers: { ...checked.headers, authorization } };
}

/** An address as text, with its password hidden. */
const printable = (address) => String(address).replace(/(:\/\/[^/?#@:]*:)[^/?#]*@/, '$1***@');

/** The error of an address that is no URL of a broker. */
function badAddress(address, condition) {
  const expected = `ws://host:port/path or wss://host:port/path${condition ? `, ${condition}` : ''}`;
  const message = `invalid URL "${printable(address)}": expected ${expected}`;
  return coded('ERR_WSMB_ADDRESS', message, TypeError);
}

/** The error of a constructor without an address, perhaps because the id was forgotten. */
function noAddress(id) {
  const example = isUrl(id) ? printable(id) : 'ws://host:port/path';
  const reason = isUrl(id) ? 'the first argument is a URL, not an id' : 'there is no address';
  const message = `${reason}: expected new WSMsgBroker(id, ${JSON.stringify(example)})`;
  return coded('ERR_WSMB_ADDRESS', message, TypeError);
}

/** The address and the options for the addon, which checks their ranges. */
function parseOptions(checked, host, port) {
  const { token, reconnect, resend, session, requestTimeout, signal, tls, proxy, ...native } =
    checked;
  if (tls) {
    native.tls = withTrust(tls);
  }
  const url = findProxy(proxy, host, port, Boolean(tls));
  if (url !== undefined) {
    native.proxy = { url, tls: withTrust({ ca: tls?.ca }) };
  }
  if (native.headers) {
    native.headers = Object.entries(native.headers);
  }
  try {
    NativeClient.validate({ host: '', port: 0, path: '/', ...native });
  } catch (error) {
    throw nativeError(error);
  }
  return { host, port, native };
}

module.exports = { DEFAULTS, parseArguments };
