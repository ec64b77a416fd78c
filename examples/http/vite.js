'use strict';

// A Vite plugin with a broker at the port of the development server, beside the WebSocket of hot reloading.

const WSMsgBroker = require('wsmsgbroker');

const { PORT = '5173' } = process.env;

const broker = {
  name: 'broker',
  configureServer({ httpServer }) {
    const server = new WSMsgBroker.Server(httpServer, '/ws');
    server.client.handle((text) => text.toUpperCase());
    httpServer.once('close', () => server.close());
  },
};

async function main() {
  const { createServer } = await import('vite');
  // In a project: `plugins: [broker]` in vite.config.js.
  const vite = await createServer({
    configFile: false,
    root: __dirname,
    logLevel: 'warn',
    plugins: [broker],
    server: { host: '127.0.0.1', port: Number(PORT), strictPort: true },
  });
  await vite.listen();

  const client = new WSMsgBroker('page', `ws://127.0.0.1:${PORT}/ws`, { protocol: 2 });
  await client.connected();
  console.log(await client.request('hello', 'server'));
  await vite.close();
}

main();
