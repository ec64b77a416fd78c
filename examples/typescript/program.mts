// Typed requests and answers. Node.js 22.18 and later runs this file directly.

import WSMsgBroker from 'wsmsgbroker';

interface Order {
  article: string;
  pieces: number;
}

interface Price {
  total: number;
  currency: 'EUR' | 'GBP';
}

const server = new WSMsgBroker.Server({ port: 0, host: '127.0.0.1' });
await server.ready;
const { port } = server.address() as WSMsgBroker.Address;
const connect = (id: string) => new WSMsgBroker(id, '127.0.0.1', port, '/', { protocol: 2 });

const shop = connect('shop');
shop.on('message', ({ pieces }: Order, response) => {
  response?.send({ total: pieces * 5, currency: 'EUR' } satisfies Price);
});
const customer = connect('customer');
await Promise.all([shop.connected(), customer.connected()]);

const order: Order = { article: 'lamp', pieces: 3 };
const { from, message } = await customer.request<Price>(order, 'shop');
console.log(`${from}: ${message.total} ${message.currency}`);

await server.close();
