'use strict';

// Finds the proxy for a connection: the one of the option `proxy`, or that of the environment variables.

const net = require('node:net');
const { coded } = require('./errors');

/** The schemes of proxies. */
const SCHEMES = ['http:', 'https:'];

/** The value of an environment variable, whose name may be in lower case. */
const variable = (name) => process.env[name.toLowerCase()] || process.env[name] || undefined;

/** The normalized URL of a proxy, or undefined if the text is not one. */
function parseProxy(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return undefined;
  }
  const isOnlyHost = url.pathname === '/' && url.search === '' && url.hash === '';
  return SCHEMES.includes(url.protocol) && isOnlyHost ? url.href : undefined;
}

/** True if an entry of `NO_PROXY` names this host: `*`, a domain, an address, or a range of addresses (CIDR). */
function matches(entry, host, port) {
  const [, name, , entryPort] = /^(\[.*\]|[^:]*|.*:.*:.*?)(:(\d+))?$/.exec(entry) ?? [null, entry];
  if (entryPort !== undefined && Number(entryPort) !== port) {
    return false;
  }
  const bare = name.replace(/^\[|\]$/g, '').toLowerCase();
  if (bare === '*') {
    return true;
  }
  const family = net.isIP(host);
  const [address, bits] = bare.split('/');
  if (family !== 0) {
    if (net.isIP(address) !== family) {
      return false;
    }
    const range = new net.BlockList();
    const length = bits === undefined ? (family === 4 ? 32 : 128) : Number(bits);
    try {
      range.addSubnet(address, length, `ipv${family}`);
    } catch {
      // Not a number of bits.
      return false;
    }
    return range.check(host, `ipv${family}`);
  }
  const domain = bare.replace(/^\*?\./, '');
  return domain !== '' && (host === domain || host.endsWith(`.${domain}`));
}

/** True if `NO_PROXY` names this host. */
function isExcluded(host, port) {
  const entries = (variable('NO_PROXY') ?? '').split(/[\s,]+/).filter(Boolean);
  return entries.some((entry) => matches(entry, host, port));
}

/** The URL of the proxy in the environment variables for a server, or undefined. */
function proxyOfEnvironment(host, port, isSecure) {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase();
  if (isExcluded(bare, port)) {
    return undefined;
  }
  for (const name of [isSecure ? 'HTTPS_PROXY' : 'HTTP_PROXY', 'ALL_PROXY']) {
    const text = variable(name);
    if (text !== undefined) {
      // A proxy without a scheme is common in environment variables.
      const url = parseProxy(text.includes('://') ? text : `http://${text}`);
      if (url === undefined) {
        const message = `the environment variable ${name} names no HTTP proxy, expected http://host:port`;
        throw coded('ERR_WSMB_PROXY', message);
      }
      return url;
    }
  }
}

/** The URL of the proxy for a server, or undefined. `option`: the option `proxy`. */
function findProxy(option, host, port, isSecure) {
  if (option === true) {
    return proxyOfEnvironment(host, port, isSecure);
  }
  return option ? parseProxy(option) : undefined;
}

module.exports = { findProxy, parseProxy };
