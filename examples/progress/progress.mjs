// The script of the page: starts the job, shows its progress, and can cancel it.

import WSMsgBroker from './wsmsgbroker.mjs';

const [bar, state, start, cancel] = ['bar', 'state', 'start', 'cancel'].map((id) =>
  document.getElementById(id),
);

const { port } = await (await fetch('broker.json')).json();
const client = new WSMsgBroker(`page-${crypto.randomUUID()}`, location.hostname, port);
client.on('message', (percent) => {
  bar.value = percent;
  state.textContent = `${percent} %`;
});
client.on('error', ({ message }) => {
  state.textContent = message;
});

start.onclick = async () => {
  const controller = new AbortController();
  cancel.onclick = () => controller.abort();
  start.disabled = true;
  try {
    // No timeout: the user cancels.
    const options = { timeout: Number.POSITIVE_INFINITY, signal: controller.signal };
    const { message } = await client.request('work', 'worker', options);
    bar.value = 100;
    state.textContent = message;
  } catch ({ code }) {
    state.textContent = code;
  }
  start.disabled = false;
};
