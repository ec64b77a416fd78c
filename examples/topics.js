'use strict';

// Rooms of a chat as topics: a subscription with a wildcard, a request to a room, and permissions.

const WSMsgBroker = require('wsmsgbroker');

/** The rooms of each user. The moderator follows all of them. */
const ROOMS = {
  ann: ['room.tea', 'room.coffee'],
  bob: ['room.tea'],
  moderator: ['room.*'],
};

async function main() {
  const server = new WSMsgBroker.Server({
    port: 0,
    host: '127.0.0.1',
    // In a real program: check the token of the client, too. `{id}` stands for the client's id.
    authenticate: ({ id }) =>
      Object.hasOwn(ROOMS, id) && {
        publish: [...ROOMS[id], 'inbox.*'],
        subscribe: [...ROOMS[id], 'inbox.{id}'],
      },
  });
  await server.ready;
  const { port } = server.address();
  const connect = (id) => new WSMsgBroker(id, '127.0.0.1', port, '/', { protocol: 2 }).connected();
  const [ann, bob, moderator] = await Promise.all(Object.keys(ROOMS).map(connect));

  // The moderator logs all rooms: an async iterator over the messages of a pattern.
  const rooms = await moderator.subscribe('room.*');
  const messages = rooms.messages();
  const log = async (count) => {
    for (let n = 0; n < count; n += 1) {
      const { message, from, topic } = (await messages.next()).value;
      console.log(`${topic}: ${from}: ${message}`);
    }
  };

  // A handler answers requests to the topic. Its answers to other messages are not sent.
  for (const client of [ann, bob]) {
    const tea = await client.subscribe('room.tea');
    tea.handle((_text, { topic }) => `${client.id} is in ${topic}`);
  }

  ann.publish('Hello', 'room.tea');
  ann.publish('Is it strong?', 'room.coffee');
  await log(2);

  // A request to a topic asks all subscribers. The moderator does not answer: `count` is 2.
  const { answers } = await moderator.requestAll('roll call', { topic: 'room.tea' }, { count: 2 });
  await log(1);
  for (const answer of [...answers.values()].sort()) console.log(answer);

  // A topic for each user: any user may publish to it, its owner alone may subscribe.
  const inbox = (await bob.subscribe('inbox.bob')).messages();
  const { queued } = await ann.deliver('psst', { topic: 'inbox.bob' });
  console.log(`subscribers of inbox.bob: ${queued}`);
  const { message, from } = (await inbox.next()).value;
  console.log(`to bob: ${from}: ${message}`);
  for (const topic of ['inbox.ann', 'room.coffee', 'room.>']) {
    await bob.subscribe(topic).catch(({ code }) => console.log(`bob, ${topic}: ${code}`));
  }
  await bob.request('?', { topic: 'room.coffee' }).catch(({ code }) => console.log(code));
  await ann.request('?', { topic: 'inbox.ann' }).catch(({ code }) => console.log(code));

  await server.close();
}

main();
