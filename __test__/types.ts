// Compiled, never run: index.d.ts must accept correct programs and reject wrong ones.

import http from 'node:http';
import WSMsgBroker, { Server } from 'wsmsgbroker';

const server = new Server(0, 'foo', { maxPayload: 1024 });
const other: WSMsgBroker.Server = new WSMsgBroker.Server({ port: 'a.sock', host: '::1' });
server.on('registered', (id: string) => id.length);
server.on('warn', (error) => error.code.length);
server.on('denied', (id: string | null, error) => {
  const code:
    | 'ERR_WSMB_UNAUTHORIZED'
    | 'ERR_WSMB_FORBIDDEN'
    | 'ERR_WSMB_CONFLICT'
    | 'ERR_WSMB_UNAVAILABLE' = error.code;
  return [id, code];
});
server.on('slow', (id: string | null, why: 'closed' | 'memory' | 'dropping') => [id, why]);
const ready: Promise<void> = server.ready;
const ids: string[] = server.ids();
const there: boolean = server.has(server.id);
const gone: boolean[] = [server.disconnect('a'), server.disconnect('a', 4000, 'enough')];
new Server({ port: 0, id: 'hub' });
const closed: Promise<void> = server.close();
const disposed: Promise<void> = server[Symbol.asyncDispose]();
const drained: Promise<void> = server.close({ drain: 1000 });
const tls: WSMsgBroker.ServerTlsOptions = { cert: 'cert.pem', key: Buffer.from('...') };
new Server({ port: 0, tls: { ...tls, ca: 'ca.pem', requestCert: true, minVersion: 'TLSv1.3' } });
other.setTls(tls);
const address: WSMsgBroker.Address | string | null = other.address();
const seen: number | undefined = server.stats()?.messagesIn;
const stats: WSMsgBroker.Stats | null = server.stats();
if (stats) {
  const counters: number[] = [stats.memory, stats.dropped, stats.evicted, stats.dead];
  counters.push(stats.unregistered, stats.denied, stats.throttled);
}

const { cluster } = stats ?? {};
if (cluster) {
  const counters: number[] = [cluster.brokers, cluster.claims, cluster.remotes, cluster.received];
  counters.push(cluster.lagged, cluster.late, cluster.lost, Number(cluster.connected));
}
const nats: WSMsgBroker.NatsOptions = {
  servers: ['nats://a', 'tls://b:4222'],
  namespace: 'blue',
  name: 'b1',
  user: 'broker',
  pass: 'sesame',
  tls: { ca: 'ca.pem', minVersion: 'TLSv1.3' },
  required: true,
  timeout: 9,
};
new Server({ port: 0, nats });

// Authentication: a hook, synchronous or not, or tokens.
new Server({ port: 0, authenticate: ({ token }) => token === 'sesame', authenticateTimeout: 9 });
new Server({
  port: 0,
  jwt: { secret: 'x' },
  async authorize({ id, principal, action, topic, token }) {
    return action === 'subscribe' && token?.startsWith(`${id} ${principal} ${topic}`);
  },
});
// @ts-expect-error true or false
new Server({ port: 0, authorize: () => 'yes' });
new Server(0, '/', {
  async authenticate({ id, token, headers, remoteAddress, secure }) {
    const cookie: string | undefined = headers.cookie;
    if (!secure || !token || !cookie || remoteAddress === '') {
      return undefined;
    }
    return { principal: id, send: ['room-*'], expires: new Date() };
  },
  allowedOrigins: ['https://example.org'],
});
const grant: WSMsgBroker.Grant = { send: 'room-*', expires: Date.now() };
const numbered: WSMsgBroker.Grant = { principal: 7 };
const everybody: WSMsgBroker.Authenticate = (credentials: WSMsgBroker.Credentials) =>
  credentials.id === 'a' ? grant : credentials.token ? numbered : null;
new Server(0, '/', { authenticate: everybody });
const jwt: WSMsgBroker.JwtOptions = { secret: Buffer.alloc(32), issuer: 'us', leeway: 1000 };
new Server(0, '/', { jwt });
new Server(0, '/', {
  slowConsumer: 'drop',
  rateLimit: { messages: 100 },
  jwt: { publicKey: 'PEM', audience: ['a', 'b'], subject: 'pattern', requireExp: false },
});

class Named extends WSMsgBroker {
  constructor() {
    super('named', 'localhost', '9042', null, { highWaterMark: 1 });
  }
}

const client = new Named();
new WSMsgBroker(5, 'ws://localhost:9042/foo', { maxQueued: 5 });
new WSMsgBroker('a', 'wss://localhost', { tls: { ca: 'ca.pem', rejectUnauthorized: false } });
new WSMsgBroker('a', 'localhost', 443, '/', { tls: true });
client.on('registered', () => {});
client.on('message', (message: { n: number }, response, from) => {
  response?.send(message.n);
  const sender: string | undefined = from;
  return sender;
});
client.on('close', (code: number | undefined) => code);
client.register('token');
client.register();
const limits = { pingInterval: 0, pingTimeout: 1, token: 'x', headers: { 'x-key': 'y' } };
new WSMsgBroker('a', 'ws://localhost', limits);
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
// @ts-expect-error no such policy
new Server(0, '/', { slowConsumer: 'kick' });
// @ts-expect-error a rate has members
new Server(0, '/', { rateLimit: 100 });
// @ts-expect-error no such member of a rate
new Server(0, '/', { rateLimit: { frames: 100 } });
// @ts-expect-error a string is not a grant
new Server(0, '/', { authenticate: () => 'yes' });
// @ts-expect-error a grant has no other members
new Server(0, '/', { authenticate: () => ({ sends: ['a'] }) });
// @ts-expect-error patterns are strings
new Server(0, '/', { authenticate: () => ({ send: [1] }) });
// @ts-expect-error the subject is the id or a pattern
new Server(0, '/', { jwt: { secret: 'x', subject: 'prefix' } });
// @ts-expect-error origins are a list
new Server(0, '/', { allowedOrigins: 'https://example.org' });
// @ts-expect-error an id is a string
new Server(0, '/', { id: 5 });
// @ts-expect-error an id is a string
server.has(5);
// @ts-expect-error the code comes first
server.disconnect('a', 'enough');
// @ts-expect-error the id is set at construction
server.id = 'other';
// @ts-expect-error drain is a member of options
server.close(1000);
// @ts-expect-error no such counter
server.stats()?.evictions;
// @ts-expect-error NATS needs an address
new Server({ port: 0, nats: { namespace: 'blue' } });
// @ts-expect-error the address is a member
new Server({ port: 0, nats: 'nats://a' });
// @ts-expect-error a seed is a string
new Server({ port: 0, nats: { servers: 'a', nkey: Buffer.from('SU') } });
// @ts-expect-error no such member
new Server({ port: 0, nats: { servers: 'a', url: 'b' } });
// @ts-expect-error a token is a string
client.register(5);
// @ts-expect-error headers are strings
new WSMsgBroker('a', 'ws://localhost', { headers: { 'x-key': 5 } });
// @ts-expect-error a certificate needs its key
new Server({ port: 0, tls: { cert: 'cert.pem' } });
// @ts-expect-error no such version
new WSMsgBroker('a', 'wss://localhost', { tls: { minVersion: 'TLSv1.1' } });
// @ts-expect-error no such event
client.on('opened', () => {});
// @ts-expect-error response may be null
client.on('message', (_message, response) => response.send(1));
// @ts-expect-error clients have no readyState
client.readyState;

export { address, closed, disposed, drained, gone, ids, more, ready, seen, there };

new WSMsgBroker('a', ['ws://localhost', new URL('ws://localhost'), () => 'ws://localhost'], limits);
new WSMsgBroker('a', async () => new URL('ws://localhost'), {
  headers: async () => ({ 'x-key': 'y' }),
});
// @ts-expect-error an address is a URL
new WSMsgBroker('a', [5]);
// @ts-expect-error a function returns a URL
new WSMsgBroker('a', () => 5);

const httpServer = http.createServer();
const attached = new Server(httpServer, '/ws', { id: 'me' });
new Server({
  server: httpServer,
  path: '/ws',
  allowUpgrade: async (req: http.IncomingMessage) => req.socket.remotePort === 1 && { user: 1 },
});
new Server({ noServer: true });
httpServer.on('upgrade', (req, socket, head) => {
  const way: 'native' | 'bridge' | 'refused' = attached.handleUpgrade(req, socket, head, {
    context: { user: 'ann' },
  });
  return way;
});
// @ts-expect-error no source of connections
new Server({ path: '/ws' });
