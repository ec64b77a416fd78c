// The script of the page: one user of the chat. The global `WSMsgBroker` is defined by the plain script.

/* global WSMsgBroker */
const { enter, say } = document.forms;
const [state, people, said] = ['state', 'people', 'said'].map((id) => document.getElementById(id));

const { port } = await (await fetch('broker.json')).json();
let client;
/** The ids that messages go to: all users online, including this one. */
let names = [];

function setNames(list) {
  names = list;
  people.textContent = names.join(', ');
}

enter.onsubmit = (event) => {
  event.preventDefault();
  client?.close();
  client = new WSMsgBroker(enter.who.value, location.hostname, port, '/', {
    // The principal of this page: see server.js.
    token: crypto.randomUUID(),
    // A short maximum delay, since the broker is on this machine.
    reconnect: { maxDelay: 2000 },
  });
  client.on('registered', () => {
    state.textContent = 'connected';
  });
  client.on('message', (message, _response, from) => {
    if (from === 'room') {
      setNames(message);
    } else {
      const line = document.createElement('div');
      line.textContent = `${from}: ${message}`;
      said.append(line);
    }
  });
  client.on('reconnecting', (_attempt, delay) => {
    state.textContent = `not connected, next try in ${delay} ms`;
    setNames([]);
  });
  // The broker refused the registration. A lost connection emits 'reconnecting' instead.
  client.on('error', ({ code, message }) => {
    state.textContent = code === 'ERR_WSMB_CONFLICT' ? 'this name is taken' : message;
  });
};

say.onsubmit = (event) => {
  event.preventDefault();
  client?.send(say.text.value, names);
  say.reset();
};
