'use strict';

// Requests and answers: which callbacks are called, with which arguments, and how often.

async function pair(stage) {
  const server = await stage.server();
  const a = await stage.client('a', server);
  const b = await stage.client('b', server);
  return { server, a, b };
}

// Sends a request and logs the arguments of its callback.
function ask(stage, client, question, dest) {
  client.send(question, dest, (...args) => stage.log(question, 'answered', args.length, ...args));
}

module.exports = [
  {
    title: 'a callback gets the id of the responder and the answer',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (message, response) => response.send(`${message} answered`));
      ask(stage, a, 'one', 'b');
      ask(stage, a, 'two', ['b']);
      await stage.until('one', 'answered');
      await stage.until('two', 'answered');
    },
  },
  {
    title: 'answers of every kind arrive, including null, empty and false',
    async play(stage) {
      const { a, b } = await pair(stage);
      const answers = [null, '', 0, false, 'text', [], {}, { deep: [null] }, -1.5];
      b.on('message', (index, response) => response.send(answers[index]));
      answers.forEach((_, index) => {
        a.send(index, 'b', (...args) => stage.log(`answer ${index}`, 'answered', ...args));
      });
      for (const index of answers.keys()) await stage.until(`answer ${index}`, 'answered');
    },
  },
  {
    title: 'an answer of undefined is an error of the asker and ends the request',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (_message, response) => {
        response.send(undefined);
        response.send('too late');
      });
      ask(stage, a, 'question', 'b');
      await stage.until('client a', 'error');
      await stage.handled(b);
      await stage.caughtUp(a);
    },
  },
  {
    title: 'an answer that JSON drops counts as undefined, one that it rejects throws',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (_message, response) => {
        stage.attempt('b', 'bigint', () => response.send(1n));
        stage.attempt('b', 'function', () => response.send(() => {}));
      });
      ask(stage, a, 'question', 'b');
      await stage.until('client a', 'error');
    },
  },
  {
    title: 'the fastest answer wins, later ones are dropped without an error',
    async play(stage) {
      const { server, a, b } = await pair(stage);
      const c = await stage.client('c', server);
      const responses = {};
      b.on('message', (_, response) => {
        responses.b = response;
      });
      c.on('message', (_, response) => {
        responses.c = response;
      });
      ask(stage, a, 'question', ['b', 'c']);
      await stage.until('client b', 'message');
      await stage.until('client c', 'message');
      responses.c.send('c was first');
      await stage.until('question', 'answered');
      responses.b.send('b was second');
      responses.c.send('c again');
      await stage.handled(b);
      await stage.handled(c);
      await stage.caughtUp(a);
    },
  },
  {
    title:
      'response.send works detached from its object and returns undefined, also the second time',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (_, response) => {
        const { send } = response;
        const value = (result) => result;
        stage.attempt('b', 'first', () => send('detached'), value);
        stage.attempt('b', 'second', () => send('again'), value);
        stage.attempt('b', 'third', () => send(undefined), value);
      });
      ask(stage, a, 'question', 'b');
      await stage.until('question', 'answered');
      await stage.handled(b);
      await stage.caughtUp(a);
    },
  },
  {
    title: 'response.send throws when the connection is closed',
    async play(stage) {
      const { a, b } = await pair(stage);
      let late;
      b.on('message', (_, response) => {
        late = response;
      });
      ask(stage, a, 'question', 'b');
      await stage.until('client b', 'message');
      b.close();
      stage.attempt('b', 'closing', () => late.send('x'));
      await stage.until('client b', 'close');
      stage.attempt('b', 'closed', () => late.send('x'));
      await stage.until('server', 'unregistered');
    },
  },
  {
    title: 'response.send may be called later, in another tick',
    async play(stage) {
      const { a, b } = await pair(stage);
      const responses = [];
      b.on('message', (_, response) => responses.push(response));
      ask(stage, a, 'one', 'b');
      ask(stage, a, 'two', 'b');
      await stage.until('client b', 'message', 2);
      setImmediate(() => responses[1].send(2));
      await stage.until('two', 'answered');
      process.nextTick(() => responses[0].send(1));
      await stage.until('one', 'answered');
    },
  },
  {
    title: 'a client may send a request to itself',
    async play(stage) {
      const { a } = await pair(stage);
      a.on('message', (message, response) => response.send([message]));
      ask(stage, a, 'myself', 'a');
      await stage.until('myself', 'answered');
    },
  },
  {
    title: 'a request to unknown receivers is answered by the known one',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (_, response) => response.send('me'));
      ask(stage, a, 'question', ['nobody', 'b', 'no one']);
      await stage.until('question', 'answered');
      await stage.handled(a);
    },
  },
  {
    title: 'a receiver listed twice may answer once',
    async play(stage) {
      const { a, b } = await pair(stage);
      let count = 0;
      b.on('message', (_, response) => response.send(++count));
      ask(stage, a, 'question', ['b', 'b']);
      await stage.until('client b', 'message', 2);
      await stage.handled(b);
      await stage.caughtUp(a);
    },
  },
  {
    title: 'an answer may be a request, sent back from the callback',
    async play(stage) {
      const { a, b } = await pair(stage);
      b.on('message', (message, response) => response.send(message + 1));
      a.send(1, 'b', (from, sum) => {
        stage.log('program', from, sum);
        a.send(sum, from, (again, total) => stage.log('program', again, total));
      });
      await stage.until('program', 'b', 2);
    },
  },
  {
    title: 'requests that are never answered do not affect others',
    async play(stage) {
      const { a, b } = await pair(stage);
      for (let number = 0; number < 50; number++)
        a.send(number, 'b', () => stage.log('program', 'answered'));
      await stage.until('client b', 'message', 50);
      a.close();
      b.close();
      await stage.until('client a', 'close');
      await stage.until('client b', 'close');
      await stage.until('server', 'unregistered', 2);
      const order = stage.recording().server.splice(-2);
      stage.log('program', 'ended', order.flat().sort());
    },
  },
];
