// Compiled, never run: arguments and results of a client in Node.js.

import { once } from 'node:events';
import { expectTypeOf } from 'expect-type';
import WSMsgBroker from 'wsmsgbroker';

interface Job {
  n: number;
}
interface Result {
  square: number;
}
const job: Job = { n: 4 };

// Options.
new WSMsgBroker('a', 'ws://localhost', { protocol: 2, reconnect: true, resend: 'requests' });
new WSMsgBroker('a', 'ws://localhost', { reconnect: { minDelay: 1, jitter: 0.5, maxAttempts: 9 } });
new WSMsgBroker('a', 'ws://localhost', { reconnect: false, requestTimeout: Infinity });
new WSMsgBroker('a', 'ws://localhost', { token: () => 'x', signal: AbortSignal.timeout(9) });
new WSMsgBroker('a', 'ws://localhost', { token: async () => undefined });
// Options that may be missing, also with `exactOptionalPropertyTypes`.
declare const maybe: string | undefined;
new WSMsgBroker('a', 'ws://localhost', { token: maybe, reconnect: undefined, signal: undefined });
new WSMsgBroker('a', 'wss://localhost', { tls: { ca: [Buffer.from('a'), 'ca.pem'] as const } });
new WSMsgBroker('a', 'wss://localhost', { proxy: 'http://localhost:3128' });
new WSMsgBroker('a', 'wss://localhost', { proxy: true });
// @ts-expect-error a URL, or whether to use that of the environment
new WSMsgBroker('a', 'wss://localhost', { proxy: { host: 'localhost' } });
// @ts-expect-error there are two versions
new WSMsgBroker('a', 'ws://localhost', { protocol: 3 });
// @ts-expect-error a version is a number
new WSMsgBroker('a', 'ws://localhost', { protocol: '2' });
// @ts-expect-error a boolean or an object, not a delay
new WSMsgBroker('a', 'ws://localhost', { reconnect: 1000 });
// @ts-expect-error no such member
new WSMsgBroker('a', 'ws://localhost', { reconnect: { delay: 1 } });
// @ts-expect-error messages are not resent
new WSMsgBroker('a', 'ws://localhost', { resend: 'messages' });
// @ts-expect-error a token is a string
new WSMsgBroker('a', 'ws://localhost', { token: () => 5 });
// @ts-expect-error milliseconds are a number
new WSMsgBroker('a', 'ws://localhost', { requestTimeout: '30s' });
// @ts-expect-error a controller is not a signal
new WSMsgBroker('a', 'ws://localhost', { signal: new AbortController() });

// Without type parameters: any JSON value.
const client = new WSMsgBroker('a', 'localhost', 9042);
expectTypeOf(client).toEqualTypeOf<WSMsgBroker<any, any>>();
expectTypeOf(client.connected()).toEqualTypeOf<Promise<WSMsgBroker>>();
expectTypeOf(client.close()).toEqualTypeOf<Promise<void>>();
expectTypeOf(client[Symbol.asyncDispose]()).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.send('x', 'b')).toEqualTypeOf<boolean>();
expectTypeOf(client.request('x', 'b')).toEqualTypeOf<
  Promise<{ from: string | undefined; message: any }>
>();
client.on('message', (message, response, from) => {
  expectTypeOf(message).toEqualTypeOf<any>();
  expectTypeOf(response).toEqualTypeOf<WSMsgBroker.Response<any> | null>();
  expectTypeOf(from).toEqualTypeOf<string | undefined>();
});

// Events.
client
  .on('open', () => {})
  .once('replaced', (id: string) => id)
  .on('goaway', (within: number) => within)
  .on('reconnecting', (attempt: number, delay: number, error: Error) => [attempt, delay, error])
  .on('reconnected', () => {})
  .off('drain', () => {})
  .on('close', (code) => expectTypeOf(code).toEqualTypeOf<number | undefined>())
  .on('error', ({ code }) => code === 'ERR_WSMB_UNAUTHORIZED' || code === 'ECONNREFUSED');
// Functions of Node.js accept it as an EventEmitter.
once(client, 'registered').then(() => {});
expectTypeOf(client.emit('open')).toEqualTypeOf<boolean>();
// @ts-expect-error no such event
client.on('reconnect', () => {});
// @ts-expect-error the first argument is the attempt
client.on('reconnecting', (error: Error) => error);
// @ts-expect-error the event has no arguments
client.on('registered', (id: string) => id);
// @ts-expect-error the code may be missing
client.on('close', (code: number) => code);
// @ts-expect-error an id is a string
client.emit('replaced', 5);
// @ts-expect-error no such event
client.listenerCount('messages');

// Messages of a given type, and answers to them.
const worker = new WSMsgBroker<Job, Result>('worker', 'ws://localhost');
expectTypeOf(worker.connected()).toEqualTypeOf<Promise<WSMsgBroker<Job, Result>>>();
worker.on('message', ({ n }, response) => {
  expectTypeOf(n).toEqualTypeOf<number>();
  response?.send({ square: n * n });
  response?.reject(new RangeError('too large'));
  response?.reject({ code: 'TOO_LARGE', message: 'too large' });
  if (response) {
    expectTypeOf(response.signal).toEqualTypeOf<AbortSignal>();
  }
  // @ts-expect-error not the type of an answer
  response?.send({ cube: n ** 3 });
  // @ts-expect-error a rejection has a reason
  response?.reject();
});
// @ts-expect-error not the type of a message
worker.on('message', (text: string) => text);

export async function work() {
  for await (const { message, from, response, answer } of worker.messages({ highWaterMark: 8 })) {
    expectTypeOf(message).toEqualTypeOf<Job>();
    expectTypeOf(from).toEqualTypeOf<string | undefined>();
    expectTypeOf(response).toEqualTypeOf<WSMsgBroker.Response<Result> | null>();
    answer?.({ square: message.n });
    // @ts-expect-error an answer may not be wanted
    answer({ square: 1 });
    // @ts-expect-error not the type of an answer
    answer?.(message.n);
    // @ts-expect-error not a member of the message
    message.m;
  }
  // @ts-expect-error no such option
  worker.messages({ limit: 8 });
}

// Each call can have its own types.
export async function ask() {
  const { from, message } = await client.request<Result>(job, 'worker');
  expectTypeOf(from).toEqualTypeOf<string | undefined>();
  expectTypeOf(message).toEqualTypeOf<Result>();
  const options = { timeout: 1000, signal: AbortSignal.timeout(2000) };
  await client.request<Result, Job>(job, ['worker-1', 'worker-2'] as const, options);
  // @ts-expect-error not the type of a message
  await client.request<Result, Job>({ m: 4 }, 'worker');
  // @ts-expect-error not a member of the answer
  (await client.request<Result>(job, 'worker')).message.cube;
  // @ts-expect-error an id is a string
  await client.request(job, 7);
  // @ts-expect-error a request needs a receiver
  await client.request(job);
  // @ts-expect-error a request has one answer
  await client.request(job, ['a', 'b'], { count: 2 });
  // @ts-expect-error milliseconds are a number
  await client.request(job, 'worker', { timeout: '1s' });
  // @ts-expect-error a promise has no message
  client.request(job, 'worker').message;
}

export async function gather() {
  const { answers, failed } = await client.requestAll<Result>(job, ['a', 'b'], { count: 1 });
  expectTypeOf(answers).toEqualTypeOf<Map<string, Result>>();
  expectTypeOf(failed).toEqualTypeOf<Map<string, WSMsgBroker.RequestError>>();
  // @ts-expect-error a count is a number
  await client.requestAll(job, ['a', 'b'], { count: 'all' });
}

export async function deliver() {
  const { delivered, failed } = await client.deliver(job, ['a', 'b']);
  expectTypeOf(delivered).toEqualTypeOf<string[]>();
  expectTypeOf(failed).toEqualTypeOf<Map<string, WSMsgBroker.RequestError>>();
  client.deliver(job, 'a', { timeout: 1 });
  // @ts-expect-error a delivery has no answers to count
  client.deliver(job, 'a', { count: 1 });
}

// A callback as in version 1, with or without a type.
client.send(job, 'worker', (from, answer: Result) => [from, answer.square]);
client.send<Result>(job, 'worker', (_from, answer) => {
  expectTypeOf(answer).toEqualTypeOf<Result>();
});
client.send<Result, Job>(job, ['a', 'b'], null);
// @ts-expect-error not the type of a message
client.send<Result, Job>({ m: 4 }, 'worker');
// @ts-expect-error the id of the responder comes first
client.send(job, 'worker', (answer: Result) => answer);

// Errors: known codes, and others.
export async function fail(): Promise<string | undefined> {
  try {
    await client.request(job, 'worker');
    return undefined;
  } catch (reason) {
    const error = reason as WSMsgBroker.RequestError;
    expectTypeOf(error.from).toEqualTypeOf<string | undefined>();
    switch (error.code) {
      case 'UNKNOWN_ID':
      case 'CLUSTER_DOWN':
      case 'ABORT_ERR':
      case 'ERR_WSMB_CONNECTION_LOST':
      case 'a code of the worker':
        return error.message;
      default:
        return error.code;
    }
  }
}
const known: WSMsgBroker.ErrorCode = 'ERR_WSMB_CLOSED';
// @ts-expect-error no such code
const unknown: WSMsgBroker.ErrorCode = 'ERR_WSMB_CLOSE';
// @ts-expect-error an outcome is not an ErrorCode
const outcome: WSMsgBroker.ErrorCode = 'TIMEOUT';

export { known, outcome, unknown };

// Handlers get a typed message and return a typed answer.
declare const handling: WSMsgBroker<Job, Result>;
expectTypeOf(
  handling.handle(async ({ n }, { signal }) => ({ square: signal.aborted ? 0 : n * n })),
).toEqualTypeOf<() => void>();
// @ts-expect-error the answer has another type
handling.handle(({ n }) => n, { concurrency: 2 });
expectTypeOf(handling.connected({ timeout: 5 })).resolves.toEqualTypeOf<typeof handling>();
expectTypeOf(handling.state)
  .extract<string>()
  .toEqualTypeOf<'connecting' | 'open' | 'registered' | 'reconnecting' | 'closed'>();

async function presence(): Promise<void> {
  const room = await client.presence<{ name: string }>('room.7');
  const name: string | undefined = room.members?.get('a')?.name;
  room.on('change', ({ joined, left, count }) => {
    const info: { name: string } | undefined = joined.get(left[0] ?? '');
    void [info, count.toFixed()];
  });
  for await (const { joined } of room) void joined.size;
  const friends = await client.watch(['a', 'b']);
  const isOnline: boolean = friends.online.has('a');
  for await (const { online, offline } of friends) void [online.length, offline.length];
  await friends.close();
  await client.subscribe('room.7', { info: { name: 'Ann' } });
  // @ts-expect-error: ids are strings.
  await client.watch([1]);
  // @ts-expect-error: the members cannot be changed.
  room.members?.clear();
  void [name, isOnline];
}
void presence;

async function kept(): Promise<void> {
  const room = await client.subscribe<{ n: number }>('room.7', { since: { last: 20 } });
  const since = room.position;
  await client.subscribe('room.7', { since });
  await client.subscribe('room.7', { since: 'here' });
  // @ts-expect-error: a position has an epoch.
  await client.subscribe('room.7', { since: { offset: 1 } });
  room.on('recovered', ({ recovered, lost }) => void [recovered && lost?.toFixed()]);
  room.on(
    'message',
    ({ n }, _response, _from, topic, offset) => void [n, topic, offset?.toFixed()],
  );
  const { messages, more, next, epoch } = await client.history<string>('room.7', { limit: 5 });
  for await (const { message, offset } of client.history<string>('room.7', { after: next })) {
    void [message.length, offset.toFixed(), messages.length, more, epoch.length];
  }
  const { offset, stored } = await client.deliver(1, { topic: 'room.7' });
  void [offset?.toFixed(), stored === 'memory'];
}
void kept;
