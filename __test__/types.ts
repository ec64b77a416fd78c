// Compiled, never run: index.d.ts must allow what works and refuse what does not.

import WSMsgBroker, { Server } from 'wsmsgbroker';

const server = new Server(0, 'foo', { maxPayload: 1024 });
const other: WSMsgBroker.Server = new WSMsgBroker.Server({ port: 'a.sock', host: '::1' });
server.on('registered', (id: string) => id.length);
server.on('warn', (error) => error.code.length);
const closed: Promise<void> = server.close();
const address: WSMsgBroker.Address | string | null = other.address();
const seen: number | undefined = server.stats()?.messagesIn;

class Named extends WSMsgBroker {
  constructor() {
    super('named', 'localhost', '9042', null, { highWaterMark: 1 });
  }
}

const client = new Named();
new WSMsgBroker(5, 'ws://localhost:9042/foo', { maxQueued: 5 });
client.on('registered', () => {});
client.on('message', (message: { n: number }, response, from) => {
  response?.send(message.n);
  const sender: string | undefined = from;
  return sender;
});
client.on('close', (code: number | undefined) => code);
const more: boolean = client.send({ a: 1 }, ['a', 'b'], (from: string, answer: number) => {
  from.length + answer;
});
client.off('registered', () => {}).once('open', () => {});

// @ts-expect-error a broker needs a port
new Server();
// @ts-expect-error a client needs a host
new WSMsgBroker('a');
// @ts-expect-error receivers are ids
client.send('x', { to: 'a' });
// @ts-expect-error no such option
new Server(0, '/', { maxPayloads: 1 });
// @ts-expect-error no such event
client.on('opened', () => {});
// @ts-expect-error response may be null
client.on('message', (_message, response) => response.send(1));
// @ts-expect-error clients have no readyState
client.readyState;

export { address, closed, more, seen };
