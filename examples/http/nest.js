'use strict';

// A broker at the port of a NestJS application.

require('reflect-metadata');
const { Module } = require('@nestjs/common');
const { NestFactory } = require('@nestjs/core');
const WSMsgBroker = require('wsmsgbroker');

/** The application. In TypeScript: `@Module({}) class AppModule {}`. */
class AppModule {}
Module({})(AppModule);

async function main() {
  const app = await NestFactory.create(AppModule, { logger: false });
  const server = new WSMsgBroker.Server(app.getHttpServer(), '/ws');
  await app.listen(0, '127.0.0.1');

  const { port } = server.address();
  const client = new WSMsgBroker('worker', `ws://127.0.0.1:${port}/ws`, { protocol: 2 });
  client.handle((text) => text.toUpperCase());
  await client.connected();
  console.log(await server.request('hello', 'worker'));

  // First the broker: the application waits for the connections of its HTTP server.
  await server.close();
  await app.close();
}

main();
