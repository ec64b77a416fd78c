'use strict';

// JSON of any depth, and bounded maps of unanswered requests.

const test = require('ava');
const BoundedMap = require('../lib/client/boundedMap');
const { stringify } = require('../lib/json');
const { startServer } = require('./support/start');
const { answering, join } = require('./support/clients');

const DEPTH = 30_000;
const deep = (open, inside, close) => open.repeat(DEPTH) + inside + close.repeat(DEPTH);

const DEEP = [
  deep('[', '', ']'),
  deep('{"a":', 'null', '}'),
  deep('[{"a":1,"__proto__":', '[1.5,"\\u0000\\ud800",true,{}]', ',"b":[]}]'),
];

/** The value nested in this many arrays. */
function wrap(value, levels = DEPTH) {
  let wrapped = value;
  for (let n = 0; n < levels; n += 1) wrapped = [wrapped];
  return wrapped;
}

test('values nested too deeply for JSON.stringify are written like it would', (t) => {
  for (const text of DEEP) {
    t.throws(() => JSON.stringify(JSON.parse(text)), { instanceOf: RangeError });
    t.true(stringify(JSON.parse(text)) === text, text.slice(0, 20));
  }
});

test('values that JSON drops or converts are dropped or converted at any depth', (t) => {
  class Own {
    visible = 1;
    #hidden = 2;
    get gotten() {
      return this.#hidden;
    }
  }
  const symbol = Symbol('a');
  const value = {
    undefined: undefined,
    function: () => {},
    symbol,
    [symbol]: 1,
    list: [undefined, () => {}, symbol, Number.NaN, Number.POSITIVE_INFINITY, -0, null],
    holes: new Array(2),
    date: new Date(0),
    json: { toJSON: (key) => `json of ${key}` },
    none: { toJSON: () => undefined },
    boxed: [new Number(1), new String('a'), new Boolean(false)],
    own: new Own(),
    map: new Map([[1, 2]]),
    bytes: new Uint8Array([1, 2]),
    '"': 'quote"\u2028\ud800',
    10: 'ten',
    9: 'nine',
  };
  const expected = JSON.stringify(value);
  const written = stringify(wrap(value));
  t.is(written.slice(DEPTH, -DEPTH), expected);
  for (const top of [undefined, () => {}, symbol, 1, 'a', null]) {
    t.is(stringify(top), JSON.stringify(top));
  }
});

test('values that JSON cannot represent throw at any depth', (t) => {
  const circular = {};
  circular.self = circular;
  for (const value of [circular, 1n, wrap(circular), wrap(1n)]) {
    t.throws(() => stringify(value), { instanceOf: TypeError });
  }
  // Two references to one object are not a circle.
  const twice = [1];
  t.true(stringify(wrap([twice, twice])).includes('[[1],[1]]'));
});

test('a message of any depth can be sent back as the answer', async (t) => {
  const server = await startServer(t);
  await answering(t, 'addon', server, 'echo', (response, message) => response.send(message));
  server.client.on('message', (message, response) => response.send(message));
  await server.client.connected();
  const client = await join(t, 'addon', server, 'client');
  for (const text of DEEP) {
    for (const dest of ['echo', 'server']) {
      const { message } = await client.request(JSON.parse(text), dest);
      t.true(stringify(message) === text);
    }
  }
});

test('a bounded map forgets the oldest entries, with what their values keep', (t) => {
  const map = new BoundedMap(1000);
  for (const [key, value] of ['ab', 'bc', 'cd']) map.set(key, value, 0);
  map.set('a', 'e', 0);
  t.deepEqual([...map.keys()], ['b', 'c', 'a']);
  t.is(map.get('a'), 'e');
  map.set('d', 'f', 0);
  t.deepEqual([...map.keys()], ['c', 'a', 'd']);
  map.delete('c');
  map.delete('c');
  map.set('e', 'g', 0);
  t.is(map.size, 3);
  map.set('f', 'h', 500);
  t.deepEqual([...map.keys()], ['f']);
  t.is(map.get('a'), undefined);
  map.set('x'.repeat(2000), 'i', 0);
  t.is(map.size, 0);
});
