'use strict';

// A broker, two clients of this version and, if npm can install it, one of 1.7.2, in the conversation of the README
// of 1.7.2. Prints the messages that each sends and receives.

const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { once } = require('node:events');
const WSMsgBroker = require('wsmsgbroker');

const ORIGINAL = path.join(__dirname, '..', '__test__', 'original');

/** The class of 1.7.2, or null if it cannot be installed. */
function original() {
  try {
    if (!fs.existsSync(path.join(ORIGINAL, 'node_modules'))) {
      const options = { cwd: path.join(ORIGINAL, '..', '..'), stdio: 'ignore', timeout: 60_000 };
      execFileSync('npm', ['run', 'original'], options);
    }
    return require(ORIGINAL).WSMsgBroker;
  } catch {
    return null;
  }
}

function say(who, what, ...values) {
  console.log(`${who.padEnd(8)} ${what}`, ...values.map((value) => JSON.stringify(value)));
}

/** The conversation: a request, its answer, then a message without an answer. Resolves at its end. */
function converse(asker, answerer) {
  return new Promise((resolve) => {
    answerer.on('message', function listen(message, response) {
      say(answerer.id, 'receives', message);
      if (response) {
        say(answerer.id, 'answers', 'Hi to you too, sir.');
        response.send('Hi to you too, sir.');
      } else {
        answerer.removeListener('message', listen);
        resolve();
      }
    });
    say(asker.id, `sends a request to ${answerer.id}`, 'Hi there');
    asker.send('Hi there', answerer.id, (from, answer) => {
      say(asker.id, `gets an answer of ${from}`, answer);
      say(asker.id, `sends to ${answerer.id}`, { complex: 'thing' });
      asker.send({ complex: 'thing' }, answerer.id);
    });
  });
}

async function main() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1', path: 'foo' });
  await server.ready;
  const { port } = server.address();
  say('server', `listens at ws://127.0.0.1:${port}/foo`);
  server.on('registered', (id) => say('server', 'registered', id));
  server.on('unregistered', (id) => say('server', 'unregistered', id));

  const Old = original();
  const clients = [
    new WSMsgBroker('client0', '127.0.0.1', port, 'foo'),
    new WSMsgBroker('client1', '127.0.0.1', port, 'foo'),
  ];
  if (Old) {
    clients.push(new Old('old', '127.0.0.1', port, 'foo'));
  } else {
    say('demo', 'goes on without a client of 1.7.2: npm could not install it');
  }
  await Promise.all(clients.map((client) => once(client, 'registered')));

  const [client0, client1, old] = clients;
  await converse(client0, client1);
  if (old) {
    await converse(client0, old);
    await converse(old, client1);
  }
  for (const client of clients) {
    client.close();
  }
  await Promise.all(clients.map((client) => once(client, 'close')));
  await server.close();
  say('demo', 'is done: every message arrived');
}

main();
