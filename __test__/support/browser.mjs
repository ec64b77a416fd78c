// A conversation of two browser clients without a browser: `node browser.mjs ws://host:port`. Needs only
// standard APIs of any runtime, and ends by itself when both clients are closed.

import WSMsgBroker from 'wsmsgbroker/browser';

const address = process.argv.at(-1);
const [asker, echo] = ['asker', 'echo'].map((id) => new WSMsgBroker(id, address));
await Promise.all([asker.connected(), echo.connected()]);

const message = { text: 'grüße 🦀', list: [1, null, true], long: 'x'.repeat(100_000) };
echo.on('message', (received, response) => response.send(received));
const answer = await asker.request(message, 'echo');
if (answer.from !== 'echo' || JSON.stringify(answer.message) !== JSON.stringify(message)) {
  throw new Error('the message differs from the sent one');
}
await Promise.all([asker.close(), echo.close()]);
console.log('ok: the browser client');
