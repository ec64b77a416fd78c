'use strict';

// One connection of a client in a browser: a `WebSocket`, and timers in place of pings.

const { coded, exceeded } = require('../client/errors');
const frames = require('../client/frames');
const timers = require('../client/timers');

/** Interval at which a WebSocket's buffer is checked, in milliseconds: there is no event for an empty buffer. */
const DRAIN_CHECK = 50;

/** The errors (behind `ERR_WSMB_`) of the close codes with which a broker refuses a client. */
const REFUSALS = {
  4401: 'UNAUTHORIZED',
  4403: 'FORBIDDEN',
  4409: 'CONFLICT',
};

/** Maximum length of an ack as JSON text, in characters. The client of Node.js has the same limit in bytes. */
const MAX_ACK = 48 * 1024;

/**
 * The JSON text of a message's ack, unchanged. Brokers write the ack behind the message, and only `from` and `topic` behind it:
 * the text from the last `"ack"` up to there is the ack if it is valid JSON. Returns false if the ack is at another
 * place and is not a string, or if it is too long.
 */
function ackText(data, ack) {
  let text = data.split(',"ack":').pop();
  try {
    text = text.replace(/(,"from":("(\\.|[^"\\])*"|\d+))?(,"topic":"(\\.|[^"\\])*")?}$/, '');
    JSON.parse(text);
  } catch {
    text = typeof ack === 'string' && JSON.stringify(ack);
  }
  return text.length <= MAX_ACK && text;
}

/** Opens a connection, and returns its transport. */
function open(session, token, url) {
  const { settings } = session;
  const { WebSocket, pingInterval } = settings;
  let isOpen = false;
  let drainCheck;
  /** The `connectTimeout` until the first frame, and then the `pingInterval` or `pingTimeout`. */
  let timer;
  let socket;
  try {
    socket = new WebSocket(url);
  } catch (error) {
    const reason = WebSocket ? error.message : 'set option "WebSocket"';
    throw coded('ERR_WSMB_ADDRESS', reason, TypeError);
  }

  const stopTimers = () => {
    timers.clearTimeout(timer);
    timer = undefined;
    clearInterval(drainCheck);
  };
  const end = (code, reason) => {
    stopTimers();
    session.onTransportClose(code, reason);
  };
  const fail = (code, error) => {
    stopTimers();
    session.onTransportFailure(code, error);
  };
  /** Closes the socket without waiting for its events: the peer may never answer. */
  const abandon = () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    socket.close();
  };
  /** Fails the connection when this option's time is over, and no frame that restarts the timer has arrived. */
  const failAfter = (name) => {
    const expire = () => {
      if (timer === started) {
        abandon();
        fail(1006, exceeded('ETIMEDOUT', name, settings[name]));
      }
    };
    const started = timers.setTimeout(() => session.whenQuiet(expire), settings[name]);
    timer = started;
  };
  /**
   * Restarts the heartbeat when a frame has arrived. Browsers have no pings: after `pingInterval` the client
   * requests a receipt for a message without receivers. A broker of version 1 has no receipts, and is not checked.
   */
  const restartHeartbeat = () => {
    timers.clearTimeout(timer);
    timer = undefined;
    if (pingInterval > 0) {
      timer = timers.setTimeout(() => {
        if (session.usesVersion2 && session.isRegistered) {
          session.transmit(frames.send(0, '[]', undefined, ',"ref":0'));
          failAfter('pingTimeout');
        }
      }, pingInterval);
    }
  };

  failAfter('connectTimeout');
  socket.onopen = () => {
    isOpen = true;
    socket.send(session.registerFrame(token, session.sessionRequest()));
    session.onTransportOpen();
  };
  socket.onmessage = ({ data }) => {
    restartHeartbeat();
    session.countEvent();
    let frame = null;
    try {
      frame = JSON.parse(typeof data === 'string' ? data : '');
    } catch {
      // `frame` stays null.
    }
    if (frame === null) {
      session.countReceived(data.length);
      session.reportPeerError(coded('ERR_WSMB_JSON', 'cannot parse message'));
      return;
    }
    frame = Object(frame);
    frame.text = frame.ack ? ackText(data, frame.ack) : undefined;
    frame.size = data.length;
    if (frame.action !== 'registered' && frame.action !== 'received') {
      session.countReceived(data.length);
    }
    session.handleFrame(frame);
  };
  socket.onerror = () => {
    // Browsers do not reveal the reason.
    session.onTransportError(
      isOpen
        ? coded('ERR_WSMB_WEBSOCKET', 'connection failed')
        : coded('ERR_WSMB_CONNECT', `cannot connect to ${url}`),
    );
  };
  socket.onclose = ({ code, reason }) => {
    if (REFUSALS[code]) {
      fail(code, coded(`ERR_WSMB_${REFUSALS[code]}`, reason));
    } else {
      // 1005 means a close frame without a code.
      end(code === 1005 ? 1000 : code, reason);
    }
  };

  // There is no `updateReading`: the WebSocket of a browser has no backpressure, and messages queue up.
  return {
    countBuffered: () => socket.bufferedAmount,
    sendFrame: (frame) => socket.send(frame),
    requestDrain: () => {
      drainCheck ??= setInterval(() => {
        if (isOpen && socket.bufferedAmount === 0) {
          clearInterval(drainCheck);
          drainCheck = undefined;
          session.onTransportDrain();
        }
      }, DRAIN_CHECK);
    },
    close: () => {
      if (isOpen) {
        socket.close(1000);
      } else {
        abandon();
        timers.setTimeout(end);
      }
    },
  };
}

module.exports = open;
