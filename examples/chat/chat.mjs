// One page of the chat, which is one person. `WSMsgBroker` is a global: the plain script defines it.

/* global WSMsgBroker */
const { enter, say } = document.forms;
const [state, people, said] = ['state', 'people', 'said'].map((id) => document.getElementById(id));

const { port } = await (await fetch('broker.json')).json();
let client;
/** Whom we speak to: all who are there, ourselves among them. */
let names = [];

function setNames(list) {
  names = list;
  people.textContent = names.join(', ');
}

enter.onsubmit = (event) => {
  event.preventDefault();
  client?.close();
  client = new WSMsgBroker(enter.who.value, location.hostname, port, '/', {
    // By this the broker knows us again: see server.js.
    token: crypto.randomUUID(),
    // Soon, for it is a short way.
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
  // Refused: what is told by 'reconnecting' is no error.
  client.on('error', ({ code, message }) => {
    state.textContent = code === 'ERR_WSMB_CONFLICT' ? 'this name is taken' : message;
  });
};

say.onsubmit = (event) => {
  event.preventDefault();
  client?.send(say.text.value, names);
  say.reset();
};
