// Compiled, never run: in a project that knows nothing of Node.js, nor of `Symbol.asyncDispose`.

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

// @ts-expect-error a class is wanted
new WSMsgBroker('page', 'wss://broker.example.org', { WebSocket: 'ws' });
// @ts-expect-error no such event
client.on('opened', () => {});
// @ts-expect-error there is no Buffer
Buffer.from('');
// @ts-expect-error this `lib` does not know it
Symbol.asyncDispose;
