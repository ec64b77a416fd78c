'use strict';

// Presence: members that lose their connections and come back all at once, and all watch.

const { setTimeout: sleep } = require('node:timers/promises');
const { frame, open } = require('./wire');

/** Calls a function with each text frame of a socket. */
function texts(socket, each) {
  let rest = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    rest = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    for (;;) {
      if (rest.length < 2) return;
      let [size, head] = [rest[1] & 127, 2];
      if (size === 126) {
        if (rest.length < 4) return;
        [size, head] = [rest.readUInt16BE(2), 4];
      } else if (size === 127) {
        if (rest.length < 10) return;
        [size, head] = [Number(rest.readBigUInt64BE(2)), 10];
      }
      if (rest.length < head + size) return;
      each(rest.subarray(head, head + size).toString());
      rest = rest.subarray(head + size);
    }
  });
}

/**
 * Connects `count` members of a room that all watch it, cuts all their connections, and connects them again. Returns the
 * frames of a watcher in the second round, on average and at most, the bytes of them, and the seconds until all know all.
 */
async function reconnect({ port }, count) {
  let members = [];
  let figures;
  for (let round = 0; round < 2; round += 1) {
    for (const { socket } of members) socket.destroy();
    const begin = performance.now();
    members = [];
    const join = async (n) => {
      const socket = await open(port, `m${n}`);
      const member = { socket, frames: 0, bytes: 0, count: 0 };
      texts(socket, (text) => {
        if (text.startsWith('{"action":"presence"')) {
          member.frames += 1;
          member.bytes += text.length;
          member.count = Number(/"count":(\d+)/.exec(text)[1]);
        }
      });
      socket.write(
        Buffer.concat([
          frame(
            `{"action":"subscribe","topic":"room","info":{"name":"member ${n}","round":${round}}}`,
          ),
          frame('{"action":"watch","topic":"room"}'),
        ]),
      );
      members.push(member);
    };
    const next = Array.from({ length: count }, (_, n) => n);
    const worker = async () => {
      while (next.length > 0) await join(next.shift());
    };
    await Promise.all(Array.from({ length: 50 }, worker));
    while (members.some((member) => member.count !== count)) await sleep(5);
    const seconds = (performance.now() - begin) / 1000;
    // Changes of the last interval.
    await sleep(600);
    const frames = members.map((member) => member.frames);
    figures = {
      seconds,
      mean: frames.reduce((sum, one) => sum + one, 0) / count,
      most: Math.max(...frames),
      bytes: members.reduce((sum, one) => sum + one.bytes, 0) / count,
    };
  }
  for (const { socket } of members) socket.destroy();
  return figures;
}

/** Bytes of resident memory of a watched id, and of a member with information of 20 bytes. */
async function memory({ port, look }) {
  const sockets = [];
  for (let n = 0; n < 500; n += 1) sockets.push(await open(port, `c${n}`));
  await sleep(500);
  const before = await look();
  for (const [n, socket] of sockets.entries()) {
    const ids = Array.from({ length: 100 }, (_, k) => `"c${(n + k) % 500}"`);
    socket.write(frame(`{"action":"watch","ids":[${ids}]}`));
  }
  await sleep(2000);
  const watched = await look();
  for (const [n, socket] of sockets.entries()) {
    for (let k = 0; k < 100; k += 1) {
      const topic = `topic.${(n * 37 + k * 10) % 1000}`;
      socket.write(
        frame(`{"action":"subscribe","topic":"${topic}","info":{"name":"member ${n}"}}`),
      );
    }
  }
  await sleep(2000);
  const joined = await look();
  const each = (one, other, what) => (one[what] - other[what]) / 50_000;
  return {
    id: [each(watched, before, 'rss'), each(watched, before, 'charged')],
    member: [each(joined, watched, 'rss'), each(joined, watched, 'charged')],
  };
}

module.exports = { reconnect, memory };
