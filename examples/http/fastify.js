'use strict';

// A Fastify plugin with a broker at the port of the application. The broker closes with the application.

const Fastify = require('fastify');
const plugin = require('fastify-plugin');
const WSMsgBroker = require('wsmsgbroker');

/** Adds a broker as `fastify.broker`. `options`: those of a server. */
const broker = plugin(async (fastify, options) => {
  const server = new WSMsgBroker.Server({ ...options, server: fastify.server });
  fastify.decorate('broker', server);
  fastify.addHook('preClose', () => server.close());
});

async function main() {
  const fastify = Fastify();
  await fastify.register(broker, { path: '/ws' });
  fastify.post('/messages/:id', async ({ params, body }) => {
    const { message } = await fastify.broker.request(body, params.id);
    return message;
  });
  const url = await fastify.listen({ port: 0, host: '127.0.0.1' });

  const client = new WSMsgBroker('thermometer', `${url.replace('http', 'ws')}/ws`, { protocol: 2 });
  client.handle(({ unit }) => ({ temperature: 21, unit }));
  await client.connected();
  const response = await fetch(`${url}/messages/thermometer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ unit: '°C' }),
  });
  console.log('the thermometer answers', await response.json());

  client.on('close', (code) => console.log('the client is closed:', code));
  await fastify.close();
}

main();
