'use strict';

// What the examples with pages share: a small web server. The broker has a port of its own, beside it.

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { once } = require('node:events');

const TYPES = { '': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript' };

/** The browser client: a plain script, and a module. */
const CLIENT = path.dirname(require.resolve('wsmsgbroker/browser'));

/**
 * Serves a folder's index.html and its script, the browser client, and as broker.json what `broker()` returns
 * then: where a page finds the broker. Resolves with the address of the page.
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
