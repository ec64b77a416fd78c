// Compiled, never run: arguments and results of a server. Its options are in ../types.ts.

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
expectTypeOf(server.disconnect('a', { principal: true })).toEqualTypeOf<boolean>();
expectTypeOf(server.disconnect('a', { code: 4000, reason: 'enough' })).toEqualTypeOf<boolean>();
expectTypeOf(server.addSubscriber('room.*', 'a')).toEqualTypeOf<Promise<void>>();
expectTypeOf(server.removeSubscriber('room.*', 'a')).toEqualTypeOf<Promise<boolean>>();
expectTypeOf(server.subscribers('room.7')).toEqualTypeOf<string[]>();
// @ts-expect-error an id
server.addSubscriber('room.*');
// @ts-expect-error principal is a boolean
server.disconnect('a', { principal: 'a' });
expectTypeOf(server[Symbol.asyncDispose]()).toEqualTypeOf<Promise<void>>();
server.on('warn', ({ code }) => code === 'ERR_WSMB_UNKNOWN_ID').once('listening', () => {});
once(server, 'listening').then(() => {});
server.on('connection', (info) => expectTypeOf(info).toEqualTypeOf<WSMsgBroker.ConnectionInfo>());
server.on('registered', (id, { remoteAddress, remotePort, secure }) => {
  expectTypeOf(id).toEqualTypeOf<string>();
  expectTypeOf(remoteAddress).toEqualTypeOf<string>();
  expectTypeOf(remotePort).toEqualTypeOf<number | undefined>();
  expectTypeOf(secure).toEqualTypeOf<boolean>();
});
server.close((error) => error?.code === 'ERR_WSMB_NOT_OPEN');
server.setJwt({ secret: 'x' });
server.setAdminToken('x');
// @ts-expect-error a string
server.setAdminToken(1);
server.close({ drain: 1, delay: 1 }, () => {}).then(() => {});
new Server({ port: 0, admin: { port: 0 } });
new Server({ port: 0, admin: { port: '/run/admin', host: '::', token: 'x' } });
new Server({ port: 0, admin: { fd: 3, token: 'x' } });
// @ts-expect-error the port is required
new Server({ port: 0, admin: {} });
// @ts-expect-error An inherited socket has its own address.
new Server({ port: 0, admin: { fd: 3, host: '::' } });
// @ts-expect-error One of both.
new Server({ port: 0, admin: { fd: 3, port: 0 } });
expectTypeOf(server.metrics()).toEqualTypeOf<string | null>();
expectTypeOf(server.adminAddress()).toEqualTypeOf<ReturnType<typeof server.address>>();
server.on('disconnected', ({ id, reason, duration }) => {
  expectTypeOf(id).toEqualTypeOf<string | undefined>();
  expectTypeOf(reason).toEqualTypeOf<WSMsgBroker.CloseReason>();
  expectTypeOf(duration).toEqualTypeOf<number>();
});
server.on('refused', ({ status, remoteAddress }) => [status, remoteAddress]);
expectTypeOf(server.stats()?.closed.slow).toEqualTypeOf<number | undefined>();
new Server({ port: 0, logger: console });
new Server({ port: 0, logger: { level: 'warn', isLevelEnabled: () => true, warn: console.warn } });
new Server({
  port: 0,
  logger: {
    debug: undefined,
    async info({ event, id }, message) {
      expectTypeOf(event).toEqualTypeOf<WSMsgBroker.LogEvent>();
      expectTypeOf(id).toEqualTypeOf<unknown>();
      expectTypeOf(message).toEqualTypeOf<string>();
    },
  },
});
/** The overloads of pino. */
interface LogFn {
  <T>(object: T, message?: string, ...args: unknown[]): void;
  (message: string, ...args: unknown[]): void;
}
declare const pino: Record<'debug' | 'info' | 'warn' | 'error', LogFn> & {
  level: string;
  isLevelEnabled(level: string): boolean;
};
new Server({ port: 0, logger: pino });
// @ts-expect-error a method is a function
new Server({ port: 0, logger: { info: 'text' } });
// @ts-expect-error no such event
({ event: 'connected' }) satisfies WSMsgBroker.LogMembers;
server.close(null, null);
// @ts-expect-error a function
server.close({}, 1);
expectTypeOf(server.unref().ref()).toEqualTypeOf<Server<any, any>>();
new Server({ port: 0, reusePort: true, trustProxy: 1 });
new Server({ fd: 3, path: '/x', health: '/ok' });
// @ts-expect-error a number
new Server({ fd: '3' });
new Server({ port: 0, trustProxy: true });
new Server({ port: 0, trustProxy: ['10.0.0.0/8'], health: '/ok', proxyProtocol: true });
// @ts-expect-error a number or networks
new Server({ port: 0, trustProxy: { hops: 1 } });
new Server({
  port: 0,
  authenticate: ({ url, certificate }) => {
    expectTypeOf(url).toEqualTypeOf<string>();
    return certificate?.commonName !== undefined && { principal: certificate.fingerprint256 };
  },
});
server.on('cluster', (state, reason) => {
  expectTypeOf(state).toEqualTypeOf<
    'connected' | 'disconnected' | 'lagged' | 'failed' | 'missing'
  >();
  expectTypeOf(reason).toEqualTypeOf<string | null>();
});
// @ts-expect-error no such state
server.on('cluster', (state) => state === 'lost');
// @ts-expect-error no such code of a warning
server.on('warn', ({ code }) => code === 'UNKNOWN');
// @ts-expect-error an event of clients
server.on('reconnected', () => {});

// A broker of a cluster.
new Server({ port: 0, nats: { servers: 'nats://a:4222' } });
new Server(0, '/', { nats: { servers: ['a', 'b'] as const, tls: true, creds: 'broker.creds' } });
export async function search() {
  expectTypeOf(server.cluster).toEqualTypeOf<WSMsgBroker.Cluster | null>();
  const all = server.cluster;
  if (!all) return;
  expectTypeOf(all.brokers()).toEqualTypeOf<string[]>();
  expectTypeOf(await all.ids()).toEqualTypeOf<{ ids: string[]; silent: string[] }>();
  const { has, broker, silent } = await all.has('a', { timeout: 100 });
  expectTypeOf(has).toEqualTypeOf<boolean>();
  expectTypeOf(broker).toEqualTypeOf<string | null>();
  expectTypeOf(silent).toEqualTypeOf<string[]>();
  // @ts-expect-error an id is a string
  all.has(5);
  // @ts-expect-error the timeout is a member of options
  all.ids(100);
}
expectTypeOf(server.stats()?.cluster).toEqualTypeOf<WSMsgBroker.ClusterStats | undefined>();
// @ts-expect-error cluster may be null
server.cluster.brokers();
// @ts-expect-error cluster is read-only
server.cluster = null;

// The server's own client.
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
    // @ts-expect-error not the type of an answer
    answer?.('ping');
  }
  expectTypeOf(hub.client).toEqualTypeOf<WSMsgBroker<'ping', 'pong'>>();
  // @ts-expect-error a server has no connection
  server.connected();
  // @ts-expect-error its id is an option
  server.register();
}
