// The script of the page: one user in a room of the chat. The global `WSMsgBroker` is defined by the plain script.

/* global WSMsgBroker */
const { enter, say } = document.forms;
const [state, people, said] = ['state', 'people', 'said'].map((id) => document.getElementById(id));

const { ports } = await (await fetch('broker.json')).json();
/** When a connection is lost, the client connects to the next of these brokers. */
const brokers = ports.map((port) => `ws://${location.hostname}:${port}`);
let client;
/** The topic of the room. */
let topic;
/** The subscription that makes this user a member of the room. */
let member;
let isTyping;

function addLine(className, text) {
  const line = document.createElement('div');
  line.className = className;
  line.textContent = text;
  said.append(line);
}

/** Changes the information of the member: whether this user is typing. */
async function setTyping(typing) {
  if (!client || typing === isTyping) return;
  isTyping = typing;
  const former = member;
  // It rejects only if the client has ended.
  member = client.subscribe(topic, { info: { typing } }).catch(() => {});
  (await former)?.unsubscribe();
}

function showPeople({ members, count }) {
  const texts =
    members && [...members].sort().map(([id, info]) => id + (info?.typing ? ' (typing)' : ''));
  // In a room of very many there is only their number.
  people.textContent = texts ? texts.join(', ') : `${count} people`;
}

/** Shows who is in the room, and who joins and leaves it. */
async function watchPeople() {
  const watch = await client.presence(topic);
  const known = new Set(watch.members?.keys());
  showPeople(watch);
  watch.on('change', ({ joined, left }) => {
    for (const id of joined.keys()) {
      // A member that is known has changed its information.
      if (!known.has(id)) addLine('note', `${id} has joined`);
      known.add(id);
    }
    for (const id of left) {
      known.delete(id);
      addLine('note', `${id} has left`);
    }
    showPeople(watch);
  });
}

function connect(id) {
  client?.close();
  client = new WSMsgBroker(id, brokers, {
    // The principal of this page: see server.js.
    token: crypto.randomUUID(),
    // A short maximum delay, since the brokers are on this machine.
    reconnect: { maxDelay: 2000 },
  });
  client.on('registered', () => {
    state.textContent = 'connected';
  });
  client.on('reconnecting', (_attempt, delay) => {
    state.textContent = `not connected, next try in ${delay} ms`;
  });
  // The broker refused the registration. A lost connection emits 'reconnecting' instead.
  client.on('error', ({ code, message }) => {
    state.textContent = code === 'ERR_WSMB_CONFLICT' ? 'this name is taken' : message;
  });
}

enter.onsubmit = async (event) => {
  event.preventDefault();
  connect(enter.who.value);
  topic = `room.${enter.room.value}`;
  member = undefined;
  isTyping = undefined;
  said.replaceChildren();
  try {
    const room = await client.subscribe(topic);
    room.on('message', (message, _response, from) => addLine('message', `${from}: ${message}`));
    await watchPeople();
    setTyping(say.text.value !== '');
  } catch {
    // The listener of 'error' has shown why.
  }
};

say.text.oninput = () => setTyping(say.text.value !== '');

say.onsubmit = (event) => {
  event.preventDefault();
  client?.publish(say.text.value, topic);
  say.reset();
  setTyping(false);
};
