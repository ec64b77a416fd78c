'use strict';

// Two peers that send to each other in turn. On request, they do so for a time in milliseconds and report
// percentiles of the round trip in microseconds.

const { frame, connect } = require('./socket');

const PING = frame('{"action":"send","message":1,"dest":"b"}');
const PONG = frame('{"action":"send","message":1,"dest":"a"}');

async function main(port) {
  const a = await connect(port, 'a');
  const b = await connect(port, 'b');
  b.on('data', () => b.write(PONG));
  process.on('message', (millis) => {
    const times = [];
    const end = performance.now() + millis;
    let start = performance.now();
    const heard = () => {
      const now = performance.now();
      times.push((now - start) * 1000);
      if (now < end) {
        start = now;
        a.write(PING);
        return;
      }
      a.off('data', heard);
      times.sort((x, y) => x - y);
      const at = (share) => times[Math.floor(times.length * share)];
      process.send({ count: times.length, p50: at(0.5), p99: at(0.99) });
    };
    a.on('data', heard);
    a.write(PING);
  });
  process.send('ready');
}

main(process.argv[2]);
