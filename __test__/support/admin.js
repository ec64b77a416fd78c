'use strict';

// Requests to the admin endpoint of a server, for the tests of its dashboard.

const http = require('node:http');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

/** The token of the admin endpoint in tests. */
const TOKEN = '0123456789abcdef';

/** Sends a request; resolves with `{ status, headers, body }`. */
async function send(port, path, { method = 'GET', headers, body } = {}) {
  const request = http.request({ host: '127.0.0.1', port, path, method, headers });
  request.end(body);
  const [response] = await once(request, 'response');
  const text = (await response.toArray()).join('');
  return { status: response.statusCode, headers: response.headers, body: text };
}

/** The JSON of a path of the API. */
async function read(port, path, token) {
  const headers = token && { Authorization: `Bearer ${token}` };
  const { status, body } = await send(port, path, { headers });
  if (status !== 200) throw new Error(`${path}: ${status} ${body}`);
  return JSON.parse(body);
}

/** Reads a path of the API until `accepts` is true of its JSON. */
async function readWhen(port, path, accepts, token) {
  for (;;) {
    const found = await read(port, path, token);
    if (accepts(found)) return found;
    await sleep(50);
  }
}

/** Asks to disconnect a client. `options`: of `send`, in place of the correct ones. */
function disconnect(port, id, { headers, ...options } = {}) {
  return send(port, '/api/disconnect', {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${TOKEN}`,
      'Content-Type': 'application/json',
      ...headers,
    },
    body: JSON.stringify({ id }),
    ...options,
  });
}

module.exports = { TOKEN, disconnect, read, readWhen, send };
