'use strict';

// A web server with a handful of files.

const http = require('node:http');
const https = require('node:https');
const path = require('node:path');
const { once } = require('node:events');

const TYPES = {
  '': 'text/html',
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
};

/**
 * Serves `files`, path to content, until the test ends; `/` is the page. With `tls`, a certificate and
 * its key, over https. Any other path is 404, but for the icon that browsers ask for by themselves.
 */
async function startSite(t, files, tls) {
  const listener = (request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const content = files[pathname];
    const missing = pathname === '/favicon.ico' ? 204 : 404;
    const type = TYPES[path.extname(pathname)] ?? 'application/octet-stream';
    response.writeHead(content === undefined ? missing : 200, { 'content-type': type });
    response.end(content);
  };
  const server = tls ? https.createServer(tls, listener) : http.createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    // Browsers keep their connections.
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  return { url: `${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}` };
}

module.exports = { startSite };
