'use strict';

// The authorities that this process trusts beside Mozilla's list, from the settings that Node's own TLS has.

const path = require('node:path');

/** Flags of Node.js by which it trusts the authorities of the operating system. */
const SYSTEM_FLAGS = ['--use-system-ca', '--use-openssl-ca'];

function trustsSystem() {
  const { NODE_OPTIONS = '', NODE_USE_SYSTEM_CA } = process.env;
  const flags = [...process.execArgv, ...NODE_OPTIONS.split(/\s+/)];
  return NODE_USE_SYSTEM_CA === '1' || SYSTEM_FLAGS.some((flag) => flags.includes(flag));
}

/** The trust store for the addon: files and directories of certificates, and whether the system's are trusted. */
function trustStore() {
  const { NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, SSL_CERT_DIR = '' } = process.env;
  const files = [NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, ...SSL_CERT_DIR.split(path.delimiter)];
  return { files: files.filter(Boolean), system: trustsSystem() };
}

module.exports = trustStore;
