/// <reference types="node" />

import { EventEmitter } from 'node:events';

/**
 * A connection to a broker, registered there under an id.
 *
 * It connects when the tick of its construction ends. What is sent before it is open waits, in
 * order, behind the registration.
 */
declare class WSMsgBroker extends EventEmitter<WSMsgBroker.ClientEvents> {
  /**
   * @param id The name under which others reach this client: 1 to 8,192 bytes of UTF-8.
   * @param host Host name or address of the broker.
   * @param port Port of the broker.
   * @param path Path of the broker; a missing slash is added. Default `/`.
   */
  constructor(
    id: string | number,
    host: string,
    port: number | string,
    path?: string | null,
    options?: WSMsgBroker.ClientOptions | null,
  );

  /** @param url Address of the broker, such as `ws://host:9042/path`. */
  constructor(id: string | number, url: string, options?: WSMsgBroker.ClientOptions | null);

  /** The id given at construction. */
  id: string | number;

  /** Callbacks that await an answer, by ack. Public by accident in version 1, and kept. */
  readonly ack2callback: Record<string, WSMsgBroker.AnswerCallback>;

  /** Bytes that wait to be written, about. */
  readonly bufferedAmount: number;

  /**
   * Sends a message.
   *
   * @param message Anything that `JSON.stringify` takes; serialised now, later changes do not travel.
   * @param dest One id, or many. An id that nobody has registered is the server's `warn` event.
   * @param callback Called with the first answer of a receiver; the fastest wins.
   * @returns false above `highWaterMark`: slow down until `'drain'`. Nothing is lost either way.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @throws Error `ERR_WSMB_MAX_QUEUED` above `maxQueued`.
   */
  send<Message = unknown, Answer = any>(
    message: Message,
    dest: string | readonly string[],
    callback?: WSMsgBroker.AnswerCallback<Answer> | null,
  ): boolean;

  /**
   * Gives up the id; the connection stays open and may still send, without a name.
   *
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   */
  unregister(): void;

  /**
   * Closes the connection; what was sent is written first, if it was open. Resolves when it has
   * ended, never rejects.
   */
  close(): Promise<void>;
}

declare namespace WSMsgBroker {
  /** Called with the id of the one who answered, and the answer. */
  type AnswerCallback<Answer = any> = (from: string, answer: Answer) => void;

  /** The way to answer a message. */
  interface Response {
    /**
     * Answers. Only the first answer of all receivers reaches the sender. Works detached.
     *
     * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) once the connection has ended.
     */
    send(answer: unknown): void;
  }

  /** The events of a client, with their arguments. */
  interface ClientEvents {
    /** Connected; the registration is on its way. */
    open: [];
    /** The server confirmed the registration. */
    registered: [];
    /** A message; `response` is null when no answer is wanted, `from` the id of its sender. */
    message: [message: any, response: Response | null, from: string | undefined];
    /** The server confirmed the end of the registration. */
    unregistered: [id: string];
    /** What was sent has been written, after `send` had returned false. */
    drain: [];
    /** The connection failed, or the server sent what cannot be understood. `error.code` is stable. */
    error: [error: Error & { code?: string }];
    /** The connection has ended, once; undefined if it was closed before it was open. */
    close: [code: number | undefined];
  }

  /** Options of a client: bytes and milliseconds. */
  interface ClientOptions {
    /** Bytes of one message from the server. Default 100 MiB and 64 KiB. */
    maxPayload?: number;
    /** Bytes waiting above which `send` returns false. Default 1 MiB. */
    highWaterMark?: number;
    /** Bytes waiting above which `send` throws. Default 1 GiB. */
    maxQueued?: number;
    /** From start to open, in milliseconds. Default 30,000. */
    connectTimeout?: number;
    /** How long, in milliseconds, a closing connection may make no progress. Default 5,000. */
    closeTimeout?: number;
  }

  /** Where a server listens. */
  interface Address {
    address: string;
    family: 'IPv4' | 'IPv6';
    port: number;
  }

  /** What a server has done so far, and what it holds now. */
  interface Stats {
    /** WebSockets open now. */
    connections: number;
    /** Ids registered now. */
    registered: number;
    /** Requests that await an answer now. */
    pending: number;
    /** WebSockets accepted so far. */
    accepted: number;
    /** Handshakes refused so far. */
    refused: number;
    /** Actions read so far. */
    messagesIn: number;
    /** Messages and answers queued for a receiver so far. */
    messagesOut: number;
    /** Messages to an id that nobody had so far. */
    unknownIds: number;
    /** Actions that could not be carried out so far. */
    errors: number;
    /** Connections closed for breaking the WebSocket protocol or exceeding `maxPayload` so far. */
    violations: number;
    /** Connections closed because they did not read so far. */
    slow: number;
  }

  /** The events of a server, with their arguments. */
  interface ServerEvents {
    /** Bound: `address()` is known. */
    listening: [];
    /** A WebSocket was accepted. */
    connection: [];
    /** An id has an owner; also when another connection takes it over. */
    registered: [id: string];
    /** An id has no owner any more. */
    unregistered: [id: string];
    /** A message went to an id that nobody has registered. */
    warn: [error: Error & { code: string }];
    /** A peer sent what cannot be understood, or the server could not listen. */
    error: [error: Error & { code?: string }];
    /** A connection was closed because it did not read; its id, if it had one. */
    slow: [id: string | null];
    /** So many `connection`, `warn`, `error` and `slow` events were only counted: JavaScript was behind. */
    dropped: [count: number];
  }

  /** Options of a server: bytes, counts and milliseconds. */
  interface ServerOptions {
    /** Address to listen on. Default `0.0.0.0`. */
    host?: string;
    /** Threads that route. Default: one per core, at most 4. */
    threads?: number;
    /** Bytes of one message; more closes its sender with 1009. Default 100 MiB. */
    maxPayload?: number;
    /** Bytes that may wait for one connection before `slowConsumer` applies. Default 16 MiB. */
    maxBackpressure?: number;
    /** What happens then: those who send to it are read no further until it catches up. */
    slowConsumer?: 'pushback';
    /** How long, in milliseconds, before the one that does not read is closed. Default 5,000. */
    slowConsumerTimeout?: number;
    /** Connections at one time; more are refused with 503. Default: 80 % of the file limit. */
    maxConnections?: number;
    /** Bytes of an id, and of an ack. Default 8,192. */
    maxIdLength?: number;
    /** Receivers of one message. Default 65,536. */
    maxDest?: number;
    /** Bytes of the head of a handshake; more is refused with 431. Default 16,384. */
    maxHeaderSize?: number;
    /** How long a handshake may take, in milliseconds; more is refused with 408. Default 10,000. */
    handshakeTimeout?: number;
    /** How long a closing connection may take, in milliseconds. Default 5,000. */
    closeTimeout?: number;
    /** How long a request may be answered, in milliseconds. Default 3,600,000. */
    ackTimeout?: number;
    /** Deliveries of one connection that may await an answer. Default 65,536. */
    maxPendingAcks?: number;
  }

  /** A broker. It routes on threads of its own, whatever JavaScript does meanwhile. */
  class Server extends EventEmitter<ServerEvents> {
    /**
     * @param port Port to listen on; 0 takes a free one; a name that is no number is a Unix socket.
     * @param path Path of the endpoint; a missing slash is added. Default `/`.
     */
    constructor(port: number | string, path?: string | null, options?: ServerOptions | null);
    constructor(options: ServerOptions & { port: number | string; path?: string });

    /** How long a request may be answered, in milliseconds: `ackTimeout`, changeable. */
    ttl: number;

    /** What it was started with; null once it is closed. */
    readonly wss: { options: { host: string; port: number | string; path: string } } | null;

    /** Where it listens: the path of a Unix socket, null once it is closed. */
    address(): Address | string | null;

    /** Counters; null once it is closed. */
    stats(): Stats | null;

    /** Closes; the port is free when this returns. Resolves when the last connection has ended. */
    close(): Promise<void>;
  }
}

export = WSMsgBroker;
