// Compiled, never run: what a server takes and gives. Its options are in ../types.ts.

import { once } from 'node:events';
import { expectTypeOf } from 'expect-type';
import type WSMsgBroker from 'wsmsgbroker';
import { Server } from 'wsmsgbroker';

const server = new Server(0);
expectTypeOf(server).toEqualTypeOf<Server<any, any>>();
expectTypeOf(server.ready).toEqualTypeOf<Promise<void>>();
expectTypeOf(server.ids()).toEqualTypeOf<string[]>();
expectTypeOf(server.has('a')).toEqualTypeOf<boolean>();
expectTypeOf(server.disconnect('a', 4000, 'enough')).toEqualTypeOf<boolean>();
expectTypeOf(server[Symbol.asyncDispose]()).toEqualTypeOf<Promise<void>>();
server.on('warn', ({ code }) => code === 'ERR_WSMB_UNKNOWN_ID').once('listening', () => {});
once(server, 'listening').then(() => {});
// @ts-expect-error a warning has a code of ours
server.on('warn', ({ code }) => code === 'UNKNOWN');
// @ts-expect-error of a client
server.on('reconnected', () => {});

// It takes part as a client does.
export async function participate() {
  expectTypeOf(server.send('x', 'a')).toEqualTypeOf<boolean>();
  const { from, message } = await server.request<{ n: number }>('x', ['a', 'b'], { timeout: 9 });
  expectTypeOf(from).toEqualTypeOf<string | undefined>();
  expectTypeOf(message).toEqualTypeOf<{ n: number }>();
  const { answers } = await server.requestAll<number>('x', server.ids());
  expectTypeOf(answers).toEqualTypeOf<Map<string, number>>();
  const { delivered } = await server.deliver('x', 'a');
  expectTypeOf(delivered).toEqualTypeOf<string[]>();

  expectTypeOf(server.client).toEqualTypeOf<WSMsgBroker>();
  const hub = new Server<'ping', 'pong'>({ port: 0, id: 'hub' });
  for await (const { message, answer } of hub.messages()) {
    expectTypeOf(message).toEqualTypeOf<'ping'>();
    answer?.('pong');
    // @ts-expect-error not that answer
    answer?.('ping');
  }
  expectTypeOf(hub.client).toEqualTypeOf<WSMsgBroker<'ping', 'pong'>>();
  // @ts-expect-error it is connected to nothing
  server.connected();
  // @ts-expect-error its id is an option
  server.register();
}
