'use strict';

// One request to many devices: some answer, one refuses, one never answers, one disconnects and one is not
// connected. `requestAll` reports an answer or an error for each.

const WSMsgBroker = require('wsmsgbroker');

/** How the thermometer of each room answers. The shed has none. */
const THERMOMETERS = {
  cellar: (response) => response?.send(12.5),
  kitchen: (response) => response?.send(21),
  attic: (response) =>
    response?.reject(Object.assign(new Error('the battery is empty'), { code: 'BATTERY' })),
  garage: () => {},
  garden: (_response, client) => client.close(),
};
const ROOMS = [...Object.keys(THERMOMETERS), 'shed'];

/** Time allowed for the answers, ms. */
const timeout = Number(process.env.TIMEOUT ?? 1000);

async function main() {
  const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
  await server.ready;
  const { port } = server.address();
  const clients = Object.entries(THERMOMETERS).map(([room, measure]) => {
    const client = new WSMsgBroker(room, '127.0.0.1', port, '/', { protocol: 2 });
    return client.on('message', (_question, response) => measure(response, client));
  });
  await Promise.all(clients.map((client) => client.connected()));

  const { answers, failed } = await server.requestAll('temperature', ROOMS, { timeout });
  for (const room of ROOMS) {
    console.log(`${room}: ${failed.get(room)?.code ?? `${answers.get(room)} °C`}`);
  }

  // With `count` it resolves after two answers, without waiting for the garage.
  const some = await server.requestAll('temperature', ROOMS, { count: 2 });
  const [a, b] = some.answers.values();
  console.log(`the mean of two rooms: ${(a + b) / 2} °C`);
  await server.close();
}

main();
