'use strict';

// A small web server for the examples with pages. The broker has a port of its own.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { once } = require('node:events');

const TYPES = { '': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript' };

/** The browser client: a plain script, and a module. */
const CLIENT = path.dirname(require.resolve('wsmsgbroker/browser'));

/**
 * Serves index.html and the script of a folder, the browser client, and broker.json: the result of `broker()`, from
 * which the page takes the address of the broker. Resolves with the address of the page.
 */
async function servePages(folder, script, port, broker) {
  const read = (...names) => fs.readFileSync(path.join(...names));
  const files = {
    '/': () => read(folder, 'index.html'),
    [`/${script}`]: () => read(folder, script),
    '/wsmsgbroker.js': () => read(CLIENT, 'wsmsgbroker.js'),
    '/wsmsgbroker.mjs': () => read(CLIENT, 'wsmsgbroker.mjs'),
    '/broker.json': () => JSON.stringify(broker()),
  };
  const server = http.createServer(({ url }, response) => {
    const type = TYPES[path.extname(url)] ?? 'application/json';
    response.writeHead(files[url] ? 200 : 404, { 'content-type': `${type}; charset=utf-8` });
    response.end(files[url]?.());
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

module.exports = servePages;
