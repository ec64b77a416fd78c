'use strict';

// One connection of a client, by the WebSocket of the browser.

const { coded } = require('../client/errors');
const frames = require('../client/frames');

/** How often a buffer that was too full is looked at, ms: a WebSocket does not tell when it is empty. */
const LOOK = 50;

/** The close codes of a refusal. */
const REFUSALS = {
  4401: 'ERR_WSMB_UNAUTHORIZED',
  4403: 'ERR_WSMB_FORBIDDEN',
  4409: 'ERR_WSMB_CONFLICT',
};

/** Characters of an ack, as JSON: as many as the client of Node.js takes bytes. */
const LONGEST_ACK = 48 * 1024;

/**
 * The ack of a message, as the text that came. Servers write it behind the message, and only `from` behind it: what
 * is JSON from the last such name up to there is a whole member. False if it is elsewhere and not a string, or too
 * long.
 */
function ackText(data, ack) {
  let text = data.split(',"ack":').pop();
  try {
    text = text.replace(/(,"from":("(\\.|[^"\\])*"|\d+))?}$/, '');
    JSON.parse(text);
  } catch {
    text = typeof ack === 'string' && JSON.stringify(ack);
  }
  return text.length <= LONGEST_ACK && text;
}

/** Opens one. */
function open(session, url, token, options) {
  const { WebSocket, protocol, connectTimeout, pingInterval, pingTimeout } = options;
  let isOpen = false;
  let looks;
  /** The end of connecting, up to the first frame; then, of the server's silence. */
  let timer;
  let socket;
  try {
    socket = new WebSocket(url);
  } catch (error) {
    const reason = WebSocket ? error.message : 'there is no WebSocket here';
    throw coded('ERR_WSMB_ADDRESS', reason, TypeError);
  }

  const end = (code) => {
    clearTimeout(timer);
    clearInterval(looks);
    session.closed(code);
  };
  /** The end with an error, whatever its listener does. */
  const fail = (code, error) => {
    try {
      session.broke(error);
    } finally {
      end(code);
    }
  };
  /** Hears no more of it: it may never say another word. */
  const abandon = () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    socket.close();
  };
  const failAfter = (limit, what) => {
    timer = setTimeout(() => {
      abandon();
      fail(1006, coded('ETIMEDOUT', `${what} for ${limit} ms`));
    }, limit);
  };
  /**
   * The server is alive. After so much silence it is asked for a receipt of nothing, as there are no pings
   * in a browser; a server of version 1 is not asked.
   */
  const heard = () => {
    clearTimeout(timer);
    if (pingInterval > 0) {
      timer = setTimeout(() => {
        if (session.speaks2 && session.isRegistered) {
          socket.send(frames.send(0, '[]', undefined, ',"ref":0'));
          failAfter(pingTimeout, 'silence');
        }
      }, pingInterval);
    }
  };

  failAfter(connectTimeout, 'no answer');
  socket.onopen = () => {
    isOpen = true;
    socket.send(frames.register(session.idText(), token && JSON.stringify(token), protocol));
    session.opened();
  };
  socket.onmessage = ({ data }) => {
    heard();
    let frame = null;
    try {
      frame = JSON.parse(typeof data === 'string' ? data : '');
    } catch {
      // Told below.
    }
    if (frame === null) {
      session.misunderstood(coded('ERR_WSMB_JSON', 'unable to parse message'));
      return;
    }
    frame = Object(frame);
    frame.text = frame.ack ? ackText(data, frame.ack) : undefined;
    frame.size = data.length;
    session.hear(frame);
  };
  socket.onerror = () => {
    // A browser does not say why.
    session.broke(
      isOpen
        ? coded('ERR_WSMB_WEBSOCKET', 'the connection has failed')
        : coded('ERR_WSMB_CONNECT', `cannot connect to ${url}`),
    );
  };
  socket.onclose = ({ code, reason }) => {
    if (REFUSALS[code]) {
      fail(code, coded(REFUSALS[code], reason));
    } else {
      // 1005 stands for a close frame without a code.
      end(code === 1005 ? 1000 : code);
    }
  };

  // Nothing that holds it: a browser's WebSocket cannot push back, and what is not taken waits.
  return {
    get bufferedAmount() {
      return socket.bufferedAmount;
    },
    get waiting() {
      return socket.bufferedAmount;
    },
    push: (frame) => socket.send(frame),
    wantDrain: () => {
      looks ??= setInterval(() => {
        if (isOpen && socket.bufferedAmount === 0) {
          clearInterval(looks);
          looks = undefined;
          session.drained();
        }
      }, LOOK);
    },
    close: () => {
      if (isOpen) {
        socket.close(1000);
      } else {
        abandon();
        queueMicrotask(end);
      }
    },
  };
}

module.exports = open;
