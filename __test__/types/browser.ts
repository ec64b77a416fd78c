// Compiled, never run: the types in a project without the types of Node.js and without `Symbol.asyncDispose`.

import { expectTypeOf } from 'expect-type';
import WSMsgBroker from 'wsmsgbroker';

const client = new WSMsgBroker<string>('page', 'wss://broker.example.org', {
  WebSocket: globalThis.WebSocket,
  tls: true,
  signal: new AbortController().signal,
});
client.on('message', (message, response) => {
  expectTypeOf(message).toEqualTypeOf<string>();
  response?.signal.addEventListener('abort', () => {});
});
client.once('registered', () => client.removeAllListeners('message'));
expectTypeOf(client.connected()).toEqualTypeOf<Promise<WSMsgBroker<string>>>();
expectTypeOf(client.listenerCount('open')).toEqualTypeOf<number>();
fetch('/', { signal: new AbortController().signal }).then(() => client.close());

// @ts-expect-error WebSocket is a class
new WSMsgBroker('page', 'wss://broker.example.org', { WebSocket: 'ws' });
// @ts-expect-error no such event
client.on('opened', () => {});
// @ts-expect-error there is no Buffer
Buffer.from('');
// @ts-expect-error not in this `lib`
Symbol.asyncDispose;
