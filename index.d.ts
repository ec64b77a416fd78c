// For Node.js and browsers: nothing here needs `@types/node`, or another `lib` than ES2022 and one that has
// AbortSignal (`@types/node`, DOM or WebWorker). What only one of the two clients has says so; docs/api.md
// has it in one table.

/** A listener of one event. */
type Listener<Events extends EventMap<Events>, Name extends keyof Events> = (
  ...args: Events[Name]
) => void;

/** Events by name, each with the arguments of its listeners. */
type EventMap<Events> = { [Name in keyof Events]: any[] };

/** Node's EventEmitter with events of certain types; Node's own functions take it for one. */
interface Emitter<Events extends EventMap<Events>> {
  on<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  once<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  off<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  addListener<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  removeListener<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  removeAllListeners(name?: keyof Events): this;
  emit<Name extends keyof Events>(name: Name, ...args: Events[Name]): boolean;
  listenerCount(name: keyof Events): number;
  /** Not in browsers. */
  listeners<Name extends keyof Events>(name: Name): Listener<Events, Name>[];
  /** Not in browsers. */
  prependListener<Name extends keyof Events>(name: Name, listener: Listener<Events, Name>): this;
  /** Not in browsers. */
  prependOnceListener<Name extends keyof Events>(
    name: Name,
    listener: Listener<Events, Name>,
  ): this;
  /** Not in browsers. */
  rawListeners<Name extends keyof Events>(name: Name): Listener<Events, Name>[];
  /** Not in browsers. */
  eventNames(): (keyof Events & (string | symbol))[];
  /** Not in browsers. */
  setMaxListeners(count: number): this;
  /** Not in browsers. */
  getMaxListeners(): number;
}

/** `await using`, for programs whose `lib` knows `Symbol.asyncDispose`. */
type Disposal = SymbolConstructor extends { readonly asyncDispose: infer Key extends symbol }
  ? { [Name in Key]: () => Promise<void> }
  : unknown;

/** What a client can do, and a server that takes part itself. */
interface Messaging<Message, Answer> {
  /**
   * Sends a message, and does not wait.
   *
   * @param message Anything that `JSON.stringify` takes; serialised now, later changes do not travel.
   * @param dest One id, or many. An id that nobody has registered is the server's `warn` event.
   * @param callback Called with the first answer of a receiver, the fastest wins; never called if there is
   *   none: `request` tells.
   * @returns false above `highWaterMark`: slow down until `'drain'`. Nothing is lost either way.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @throws Error `ERR_WSMB_MAX_QUEUED` above `maxQueued`.
   */
  send<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    callback?: WSMsgBroker.AnswerCallback<Received> | null,
  ): boolean;

  /**
   * Asks one id or many; resolves with the first answer. Of many the fastest wins, and the others are
   * told to stop; one that fails or refuses counts only when nobody else is left.
   *
   * Rejects with a `RequestError`. With a server that speaks version 1, only an answer or the `timeout` ends it.
   *
   * @example const { from, message } = await client.request<Result>(job, ['worker-1', 'worker-2']);
   */
  request<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    options?: WSMsgBroker.RequestOptions,
  ): Promise<WSMsgBroker.Answered<Received>>;

  /**
   * Asks many, and resolves with the outcome of each: no rejection for some who do not answer. Version 2 only.
   *
   * Rejects with a `RequestError` when nothing was asked, or nobody waits any more.
   */
  requestAll<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    options?: WSMsgBroker.GatherOptions,
  ): Promise<WSMsgBroker.Gathered<Received>>;

  /**
   * Sends, and resolves when the broker has said in whose queue the message is. That is no proof that it was
   * read: only an answer is. Version 2 only. Rejects with a `RequestError`.
   */
  deliver<Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    options?: WSMsgBroker.RequestOptions,
  ): Promise<WSMsgBroker.Delivery>;

  /**
   * The messages from now on, one after the other; ends when the client does. Each call makes a stream of its
   * own, and each stream, as well as the `message` event, gets every message.
   *
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @example for await (const { message, answer } of client.messages()) answer?.(message * 2);
   */
  messages(
    options?: WSMsgBroker.MessagesOptions,
  ): AsyncIterableIterator<WSMsgBroker.Incoming<Message, Answer>>;
}

/** Not there at run time: what both classes have. */
declare const Peer: new <Events extends EventMap<Events>, Message, Answer>() => Emitter<Events> &
  Messaging<Message, Answer> &
  Disposal;

/**
 * A connection to a broker, registered there under an id.
 *
 * It connects when the tick of its construction ends. What is sent before it is open waits, in
 * order, behind the registration.
 *
 * `Message` is what others send to this client, `Answer` what it answers them. What it asks of others has a
 * type at each call: `client.request<Result>(job, 'worker')`.
 */
declare class WSMsgBroker<Message = any, Answer = any> extends Peer<
  WSMsgBroker.ClientEvents<Message, Answer>,
  Message,
  Answer
> {
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

  /** @param url Address of the broker, such as `ws://host:9042/path`, or `wss:` for TLS. */
  constructor(id: string | number, url: string, options?: WSMsgBroker.ClientOptions | null);

  /** The id given at construction. */
  id: string | number;

  /** Bytes that wait to be written, about. */
  readonly bufferedAmount: number;

  /**
   * Number of errors that the server or another client has caused on open connections of this client. They are
   * `error` events only if there is a listener: they never end the process.
   */
  readonly peerErrors: number;

  /**
   * Callbacks that await an answer, by ack. Public by accident in version 1, and kept. Not in browsers.
   */
  readonly ack2callback: Record<string, WSMsgBroker.AnswerCallback>;

  /**
   * Resolves with this client as soon as it is registered, at once if it is. Rejects with the reason if it ends
   * before; whoever waits here needs no `error` listener for that.
   */
  connected(): Promise<this>;

  /**
   * Registers again under the same id, with another token: what was granted is renewed, and
   * `'registered'` follows. Also registers anew after `unregister`.
   *
   * @param token What the server is shown this time, and when the client reconnects, unless the option
   *   `token` is a function; without it, nothing.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @throws TypeError `ERR_WSMB_OPTION` for a token that is no string.
   */
  register(token?: string): void;

  /**
   * Gives up the id. The connection stays open and may still send, without a name; where clients
   * are authenticated, only `register` may follow.
   *
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   */
  unregister(): void;

  /**
   * Closes the client, for good; what was sent is written first, if it was open. Resolves when the
   * connection has ended, never rejects.
   */
  close(): Promise<void>;
}

declare namespace WSMsgBroker {
  /** One id, or many. */
  type Destination = string | readonly string[];

  /** Called with the id of the one who answered, and the answer. */
  type AnswerCallback<Answer = any> = (from: string, answer: Answer) => void;

  /** The way to answer a message. `send` may be taken from it. */
  interface Response<Answer = any> {
    /**
     * Answers. Of a request to many only as many answers reach the sender as it wants, by default the first.
     *
     * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) once the connection has ended.
     */
    send(answer: Answer): void;

    /**
     * Refuses: the one who asked gets an error with this `code` (default `ERR_WSMB_REJECTED`) and `message`.
     * Nothing else of an error travels. Version 2 only.
     *
     * @param reason An error, an object with `code` and `message`, or a text.
     * @throws Error `ERR_WSMB_NOT_NEGOTIATED` on a connection of version 1.
     * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) once the connection has ended.
     */
    reject(reason: unknown): void;

    /**
     * Aborts when nobody awaits the answer any more: the request was cancelled, answered by somebody else or
     * timed out, who asked has gone, or the own connection has ended. The reason has the code
     * `ERR_WSMB_CANCELLED`. On a connection of version 1 it never aborts.
     */
    readonly signal: AbortSignal;
  }

  /** A message, as `messages()` has it. */
  interface Incoming<Message = any, Answer = any> {
    message: Message;
    /** The id of its sender, undefined for one without. */
    from: string | undefined;
    /** Null when no answer is wanted. */
    response: Response<Answer> | null;
    /** `response.send`, undefined when no answer is wanted. */
    answer: Response<Answer>['send'] | undefined;
  }

  /** What `request` resolves with. */
  interface Answered<Answer = any> {
    /** Who has answered; undefined for one that has given up its id since. */
    from: string | undefined;
    message: Answer;
  }

  /** What `requestAll` resolves with: each of those asked is in one of them, unless `count` was reached. */
  interface Gathered<Answer = any> {
    /** The answers by id, in the order in which they came. */
    answers: Map<string, Answer>;
    /** Why there is none, by id. */
    failed: Map<string, RequestError>;
  }

  /** What `deliver` resolves with: each id is in one of them. */
  interface Delivery {
    /** Those in whose connection's queue the message is. */
    delivered: string[];
    /** Why it is not, by id. */
    failed: Map<string, RequestError>;
  }

  /** Options of `request` and `deliver`. */
  interface RequestOptions {
    /** How long to wait, in milliseconds, more than 0; `Infinity` for ever. Default `requestTimeout`. */
    timeout?: number;
    /** Gives the request up: it rejects with `ABORT_ERR`, and who works on it is told to stop. Default none. */
    signal?: AbortSignal;
  }

  /** Options of `requestAll`. */
  interface GatherOptions extends RequestOptions {
    /** So many answers are enough: the others are told to stop. Default: all. */
    count?: number;
  }

  /** Options of `messages`. */
  interface MessagesOptions {
    /**
     * Messages that may wait in the stream before the socket, pings included, is read no further. Browsers read
     * on, and so does a client that itself awaits answers or receipts. Default 64.
     */
    highWaterMark?: number;
    /** Ends the stream: it throws an `AbortError`. Default none. */
    signal?: AbortSignal;
  }

  /** Any other text. It leaves a union of texts its completion in editors. */
  type OtherCode = string & Record<never, never>;

  /** What became of one receiver, as the server tells it. */
  type FailureCode = 'UNKNOWN_ID' | 'GONE' | 'REPLACED' | 'SLOW' | 'TIMEOUT' | 'CLUSTER_DOWN';

  /** The codes of our own errors; docs/api.md says what each means, and what to do. */
  type ErrorCode =
    | 'ERR_WSMB_ACK_TAKEN'
    | 'ERR_WSMB_ACTION'
    | 'ERR_WSMB_ADDRESS'
    | 'ERR_WSMB_ANSWER'
    | 'ERR_WSMB_BINARY'
    | 'ERR_WSMB_BROWSER'
    | 'ERR_WSMB_CANCEL'
    | 'ERR_WSMB_CANCELLED'
    | 'ERR_WSMB_CLOSED'
    | 'ERR_WSMB_CLUSTER'
    | 'ERR_WSMB_CLUSTER_PAYLOAD'
    | 'ERR_WSMB_CONFLICT'
    | 'ERR_WSMB_CONNECT'
    | 'ERR_WSMB_CONNECTION_LOST'
    | 'ERR_WSMB_DEST'
    | 'ERR_WSMB_FORBIDDEN'
    | 'ERR_WSMB_ID'
    | 'ERR_WSMB_JSON'
    | 'ERR_WSMB_MAX_DEST'
    | 'ERR_WSMB_MAX_FANOUT'
    | 'ERR_WSMB_MAX_ID_LENGTH'
    | 'ERR_WSMB_MAX_PAYLOAD'
    | 'ERR_WSMB_MAX_QUEUED'
    | 'ERR_WSMB_MEMBER'
    | 'ERR_WSMB_MESSAGE'
    | 'ERR_WSMB_NOT_NEGOTIATED'
    | 'ERR_WSMB_NOT_OPEN'
    | 'ERR_WSMB_NOT_REGISTERED'
    | 'ERR_WSMB_OPTION'
    | 'ERR_WSMB_PLATFORM'
    | 'ERR_WSMB_REJECTED'
    | 'ERR_WSMB_SEND'
    | 'ERR_WSMB_THREADS'
    | 'ERR_WSMB_TLS'
    | 'ERR_WSMB_UNAUTHORIZED'
    | 'ERR_WSMB_UNAVAILABLE'
    | 'ERR_WSMB_UNEXPECTED_RESPONSE'
    | 'ERR_WSMB_UNKNOWN_ACK'
    | 'ERR_WSMB_UNKNOWN_ID'
    | 'ERR_WSMB_WEBSOCKET';

  /** An error of ours, of the system, or of your own functions. */
  interface CodedError extends Error {
    code?: ErrorCode | OtherCode;
  }

  /** Why there is no answer, or no receipt. */
  interface RequestError extends Error {
    /** One of these, one of the server's, or that with which a responder has refused. */
    code: FailureCode | 'ABORT_ERR' | ErrorCode | OtherCode;
    /** The id of the one who has refused, if somebody has. */
    from?: string;
  }

  /** The events of a client, with their arguments. */
  interface ClientEvents<Message = any, Answer = any> {
    /** Connected; the registration is on its way. */
    open: [];
    /** The server confirmed the registration. */
    registered: [];
    /** A message; `response` is null when no answer is wanted, `from` the id of its sender. */
    message: [message: Message, response: Response<Answer> | null, from: string | undefined];
    /** The server confirmed the end of the registration. */
    unregistered: [id: string];
    /**
     * Another connection has registered the id. This one stays open, without a name, and does not reconnect
     * when it ends. Version 2 only.
     */
    replaced: [id: string];
    /** What was sent has been written, after `send` had returned false. */
    drain: [];
    /**
     * The server closes within so many milliseconds. With `reconnect` the client goes by itself, at some moment
     * of that time and as soon as nothing is awaited. Version 2 only.
     */
    goaway: [within: number];
    /** The connection is lost: the how manieth attempt follows, after so many milliseconds, and why. */
    reconnecting: [attempt: number, delay: number, error: CodedError];
    /** Registered again; `registered` came before. */
    reconnected: [];
    /**
     * The connection failed, the server refused us, or it sent what cannot be understood. Without a listener
     * it is thrown only if the connection could not be opened; all other errors are counted in `peerErrors`.
     * `error.code` is stable: `ERR_WSMB_UNAUTHORIZED`, `_FORBIDDEN` and `_CONFLICT` are refusals.
     * With `reconnect` a connection that fails is only told by `reconnecting`, until it is given up.
     */
    error: [error: CodedError];
    /**
     * The client has ended, once; undefined if it was closed before it was open. 4401, 4403 and
     * 4409 are refusals: to try again with the same token is in vain.
     */
    close: [code: number | undefined];
  }

  /** PEM as text or bytes, or the path of a file with it. */
  type Pem = string | Uint8Array;

  /** A version of TLS. */
  type TlsVersion = 'TLSv1.2' | 'TLSv1.3';

  /** How a client knows its server, and makes itself known. */
  interface ClientTlsOptions {
    /** Authorities that may sign the server's certificate, in place of those Mozilla trusts. */
    ca?: Pem;
    /** The name that is asked for and that the certificate must have. Default: the host. */
    servername?: string;
    /** The client's own certificate, those of its issuers behind it. */
    cert?: Pem;
    /** Its key: PKCS#8, PKCS#1 or SEC1, not encrypted. */
    key?: Pem;
    /** `false` takes any certificate: whoever is in between may read all. Default true. */
    rejectUnauthorized?: boolean;
    /** The oldest version that is spoken. Default `TLSv1.2`. */
    minVersion?: TlsVersion;
  }

  /** The certificate of a server, and whom it lets in. */
  interface ServerTlsOptions {
    /** The certificate, those of its issuers behind it. */
    cert: Pem;
    /** Its key: PKCS#8, PKCS#1 or SEC1, not encrypted. */
    key: Pem;
    /** Authorities that may sign the certificate of a client; only with `requestCert`. */
    ca?: Pem;
    /** The oldest version that is spoken. Default `TLSv1.2`. */
    minVersion?: TlsVersion;
    /** Only clients with a certificate signed by `ca` are let in. Default false. */
    requestCert?: boolean;
  }

  /** When a client connects again: the delay doubles, up to a limit, and a part of it is left to chance. */
  interface ReconnectOptions {
    /** The first delay, in milliseconds. Default 500. */
    minDelay?: number;
    /** The longest delay, in milliseconds. Default 30,000. */
    maxDelay?: number;
    /** By what each delay is longer than the one before, 1 to 100. Default 2. */
    factor?: number;
    /** The share of each delay that is left to chance, 0 to 1. Default 1. */
    jitter?: number;
    /** Attempts before it is given up, since the last registration. Default: no limit. */
    maxAttempts?: number;
  }

  /** Options of a client: bytes and milliseconds, whole numbers. */
  interface ClientOptions {
    /**
     * The newest version of the protocol that is spoken. 1 is that of version 1 to the byte; with 2 a client learns
     * why there is no answer, and a server of version 1 is spoken to in version 1. Default 1; 2 in browsers.
     */
    protocol?: 1 | 2;
    /** What the server is shown at registration; a function is asked at each connection. Default: none. */
    token?: string | (() => string | undefined | Promise<string | undefined>);
    /** Connects again when the connection is lost, and registers; `true` as by default. Default false. */
    reconnect?: boolean | ReconnectOptions;
    /**
     * With `reconnect`: whether requests whose connection was lost (1001, 1006, 1012) are sent once more,
     * so that a receiver may see one twice, or they fail with `ERR_WSMB_CONNECTION_LOST`. Default `never`.
     */
    resend?: 'never' | 'requests';
    /** How long a request may wait for its answer, in milliseconds; `Infinity` for ever. Default 30,000. */
    requestTimeout?: number;
    /** Closes the client. Default: none. */
    signal?: AbortSignal;
    /**
     * Further headers of the handshake; those that make it one are not yours to set. Not in browsers.
     * Default: none.
     */
    headers?: Record<string, string>;
    /** Bytes of one message from the server. Not in browsers. Default 100 MiB + 64 KiB. */
    maxPayload?: number;
    /** Bytes waiting above which `send` returns false. Default 1 MiB. */
    highWaterMark?: number;
    /** Bytes waiting above which `send` throws. Default 1 GiB. */
    maxQueued?: number;
    /** From start to open, in milliseconds. Default 30,000. */
    connectTimeout?: number;
    /**
     * Silence of the server, in milliseconds, before it is sent a ping; 0: never. In browsers, which cannot ping,
     * a server of version 2 is sent a small request. Default 25,000.
     */
    pingInterval?: number;
    /** Silence after the ping, in milliseconds, before it counts as dead: 1006. Default 20,000. */
    pingTimeout?: number;
    /**
     * How long, in milliseconds, a closing connection may make no progress. Not in browsers.
     * Default 5,000.
     */
    closeTimeout?: number;
    /**
     * Speaks TLS; `true` as by default. A `wss:` URL needs none of it, a `ws:` URL allows none. In
     * browsers only a boolean, for host and port. Default false; as the page came in browsers.
     */
    tls?: boolean | ClientTlsOptions;
    /** Browsers only: a class that is used as that of the page. Default `globalThis.WebSocket`. */
    WebSocket?: new (
      url: string,
    ) => object;
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
    /** Bytes that buffers and tables hold now, as `maxMemory` counts them. */
    memory: number;
    /** WebSockets accepted so far. */
    accepted: number;
    /** Handshakes refused so far. */
    refused: number;
    /** Actions read so far. */
    messagesIn: number;
    /** Messages and answers queued for a receiver, or for its broker, so far. */
    messagesOut: number;
    /** Messages to an id that nobody had so far. */
    unknownIds: number;
    /** Actions that could not be carried out so far. */
    errors: number;
    /**
     * Connections closed for breaking the WebSocket protocol, or for exceeding `maxPayload`,
     * `maxFragments`, `maxControlFrames` or `maxProtocolErrors`, so far.
     */
    violations: number;
    /** Connections closed because they did not read so far. */
    slow: number;
    /** Messages and answers dropped for receivers that did not read (`slowConsumer: 'drop'`) so far. */
    dropped: number;
    /** Connections closed because memory was short (`maxMemory`) so far. */
    evicted: number;
    /** Connections found dead by their silence (`pingTimeout`) so far. */
    dead: number;
    /** Connections closed because they did not register in time (`registerTimeout`) so far. */
    unregistered: number;
    /**
     * Connections closed because they may not do what they wanted (4401, 4403, 4409), or because that could
     * not be decided (1013), so far.
     */
    denied: number;
    /** Times that a connection had used up its `rateLimit` so far. */
    throttled: number;
    /** Its part in a cluster; missing where it is alone (no option `nats`). */
    cluster?: ClusterStats;
  }

  /** What a server has done so far as one of a cluster, and what it holds now. */
  interface ClusterStats {
    /** Whether NATS can be reached now, and passes on what this broker says. */
    connected: boolean;
    /** Brokers known now, this one among them. While NATS is away: those known before. */
    brokers: number;
    /** Ids that this broker claims now: one subscription each at NATS. */
    claims: number;
    /** Ids not registered here that are sent to from here now, or were half a second ago, or owe an answer. */
    remotes: number;
    /** Messages that came from other brokers for ids here so far. */
    received: number;
    /** Messages for ids not here, while NATS could not be reached, so far. */
    unreachable: number;
    /** Times that something for this broker was lost because it came faster than it was taken so far. */
    lagged: number;
    /** Times that the connection to NATS was lost so far. */
    lost: number;
  }

  /** Why a `slow` event: closed, closed for its memory, or its messages are being dropped. */
  type SlowReason = 'closed' | 'memory' | 'dropping';

  /**
   * How the cluster of a server is: NATS is reached, and has read for which ids this broker listens; it is lost;
   * something that was for this broker was lost, and what was under way fails; NATS refused something, or cannot be
   * reached and is tried again; it was `required`, could not be reached in time, and the server closes.
   */
  /** How `server.disconnect` closes. */
  interface DisconnectOptions {
    /** What the `'close'` event of the client tells: 1000, or 3000 to 4999. Default 1000. */
    code?: number;
    /** What the close frame says beside the code: 123 bytes of UTF-8 at most. Default none. */
    reason?: string;
    /**
     * True closes all connections here of the principal that owns the id, whatever their ids, whether they
     * still have one, and also those whose registration is under way. Where nobody is authenticated: all that
     * registered this id last. Default false: the owner of the id alone.
     */
    principal?: boolean;
  }

  type ClusterState = 'connected' | 'disconnected' | 'lagged' | 'failed' | 'missing';

  /** Why a `denied` event; `message` is what the client is told. */
  interface DeniedError extends Error {
    code:
      | 'ERR_WSMB_UNAUTHORIZED'
      | 'ERR_WSMB_FORBIDDEN'
      | 'ERR_WSMB_CONFLICT'
      | 'ERR_WSMB_UNAVAILABLE';
  }

  /** The events of a server, with their arguments. */
  interface ServerEvents {
    /** Bound: `address()` is known. With `nats.required` the cluster is `'connected'`, too. */
    listening: [];
    /** A WebSocket was accepted. */
    connection: [];
    /** An id has an owner; also when another connection takes it over. */
    registered: [id: string];
    /** An id has no owner any more. */
    unregistered: [id: string];
    /** A message went to an id that nobody has registered; with `nats`: anywhere, and one may stand for several. */
    warn: [error: Error & { code: ErrorCode }];
    /**
     * A peer sent what cannot be understood or may not be, `authenticate` failed, or the server
     * could not listen.
     */
    error: [error: CodedError];
    /** A connection may not register, or not any more, and is closed; the id it wants, or had. */
    denied: [id: string | null, error: DeniedError];
    /** A connection does not keep up; its id, if it has one, and what was done about it. */
    slow: [id: string | null, why: SlowReason];
    /** With `nats`: how the cluster is, and why it is `failed` or `missing`; null for the others. */
    cluster: [state: ClusterState, reason: string | null];
    /**
     * So many `connection`, `warn`, `error`, `slow` and `denied` events were only counted:
     * JavaScript was behind.
     */
    dropped: [count: number];
  }

  /** What a client shows when it registers. */
  interface Credentials {
    /** The id it wants. */
    id: string;
    /** The token it sent along. */
    token: string | undefined;
    /** The headers of its handshake: lower-case names, the values of any one name joined by `, `. */
    headers: Record<string, string>;
    /** The address at the other end of its socket, a proxy's if there is one; empty for a Unix socket. */
    remoteAddress: string;
    /** True when the socket speaks TLS with us. */
    secure: boolean;
  }

  /** What a client may do: a plain object, with no other members. */
  interface Grant {
    /**
     * Who the client is: not empty, and a number is finite. No other principal may take over an id while its owner is connected.
     * Default: the id.
     */
    principal?: string | number;
    /**
     * Whom it may address: patterns in which `*` stands for any characters, and cannot be escaped.
     * Default: anybody.
     */
    send?: string | readonly string[];
    /** When its connection ends, unless it has registered anew by then. Default: never. */
    expires?: Date | number;
  }

  /**
   * Decides who may register. `true` or a grant lets a client in; all else refuses it, and so does
   * what is thrown. An error with the code `ERR_WSMB_UNAUTHORIZED` or `ERR_WSMB_FORBIDDEN` tells
   * the client its message; any other error is the server's `error` event, and so is a `TypeError`
   * for what is neither a boolean, nothing, nor a grant.
   */
  type Authenticate = (
    credentials: Credentials,
  ) => boolean | Grant | null | undefined | Promise<boolean | Grant | null | undefined>;

  /** Which JSON Web Tokens are accepted: of a secret, or of a public key. */
  interface JwtOptions {
    /** The secret shared with the issuer: 32 bytes at least (48 for HS384, 64 for HS512). */
    secret?: string | Uint8Array;
    /** Or the issuer's public key, in PEM: RSA, P-256, P-384 or Ed25519. */
    publicKey?: string | Uint8Array;
    /** The algorithms allowed. Default: HS256, RS256, ES256, ES384 or EdDSA, as the key goes. */
    algorithms?: readonly string[];
    /** Who may have issued them: one of these, not empty, is the claim `iss`. Default: anybody. */
    issuer?: string | readonly string[];
    /** For whom they may be: one of these, not empty, is in the claim `aud`. Default: anybody. */
    audience?: string | readonly string[];
    /** What the claim `sub` is: the id, or a pattern of ids. Default `exact`. */
    subject?: 'exact' | 'pattern';
    /** Milliseconds that clocks may differ, 600,000 at most. Default 0. */
    leeway?: number;
    /** Whether tokens must have an end, the claim `exp`. Default true. */
    requireExp?: boolean;
  }

  /**
   * NATS, by which many brokers are one; docs/cluster.md has how to run them. Who we are for NATS is said by one of
   * `user`, `token`, `nkey` and `creds`, or by nothing.
   */
  interface NatsOptions {
    /**
     * Where it is: `nats://host:4222`, `tls://host`, `host`, one or many; `nats://user:password@host` says who we
     * are, too. One that cannot be reached is passed over for the next.
     */
    servers: string | readonly string[];
    /**
     * Brokers of one namespace are one, and do not see those of others: 1 to 64 letters, digits, `-` and `_`.
     * Default `default`.
     */
    namespace?: string;
    /** The name of this broker for the others, 1 to 64 bytes; each needs its own. Default: a random one. */
    name?: string;
    /** A user of NATS. Default: none. */
    user?: string;
    /** The password of `user`. Default: none. */
    pass?: string;
    /** A token. Default: none. */
    token?: string;
    /** The seed of an NKey, `SU...`. Default: none. */
    nkey?: string;
    /** A file of credentials: its path, or its text. Default: none. */
    creds?: string;
    /**
     * Speaks TLS, `true` as by default; `servername` is that of the address. Default false: where the address
     * (`tls://`) or NATS itself says so.
     */
    tls?: boolean | ClientTlsOptions;
    /**
     * Whether the server closes (`ERR_WSMB_CLUSTER`) when NATS cannot be reached within `timeout` at the start;
     * `'listening'` waits for it. Otherwise it serves those who are here, and tries on. Default false.
     */
    required?: boolean;
    /** The time for that, in milliseconds. Default 5,000. */
    timeout?: number;
  }

  /** How long all brokers are waited for. */
  interface ClusterSearchOptions {
    /** Milliseconds, more than 0. Default 1,000. */
    timeout?: number;
  }

  /** All brokers of a cluster, as one of them sees them. */
  interface Cluster {
    /** The names of the brokers known now, this one among them, in order; none once the server is closed. */
    brokers(): string[];

    /**
     * The ids registered at all brokers now, in no order. `silent` are the names of brokers that did not answer in
     * time: theirs may be missing. It brings all ids here: with very many of them that takes its time.
     *
     * Rejects with `ERR_WSMB_NOT_OPEN` once the server is closed.
     */
    ids(options?: ClusterSearchOptions): Promise<{ ids: string[]; silent: string[] }>;

    /**
     * Whether somebody has registered this id, and the name of the broker where that is. All are asked: it
     * resolves when all have answered or the time is up, then with those that did not in `silent`.
     *
     * Rejects with `ERR_WSMB_NOT_OPEN` once the server is closed.
     */
    has(
      id: string,
      options?: ClusterSearchOptions,
    ): Promise<{ has: boolean; broker: string | null; silent: string[] }>;
  }

  /** What one connection may send in a second; what is missing has no limit. */
  interface RateLimit {
    /** Messages of any kind, pings included. Default: no limit. */
    messages?: number;
    /** Bytes, those of frame headers included. Default: no limit. */
    bytes?: number;
  }

  /** Options of a server: bytes, counts and milliseconds, whole numbers; `docs/limits.md` has the reasons. */
  interface ServerOptions {
    /**
     * The id under which the server takes part itself: from the start if it is set, else once it does. Default
     * `server`; with `nats` `server-` and the name of the broker: in a cluster each needs its own.
     */
    id?: string;
    /** Address to listen on. Default `0.0.0.0`. */
    host?: string;
    /** Threads that route. Default: one per core, at most 4. */
    threads?: number;
    /** Bytes of one message; more closes its sender with 1009. Default 100 MiB. */
    maxPayload?: number;
    /** Bytes of one message to `server.client`; a larger one is dropped, a request refused. Default 1 MiB. */
    clientMaxPayload?: number;
    /** Bytes that may wait for one connection before `slowConsumer` applies. Default 16 MiB. */
    maxBackpressure?: number;
    /**
     * What happens then: those who send to it are read no further until it catches up, or it is
     * closed at once, or what is sent to it is dropped and counted. Default `pushback`.
     */
    slowConsumer?: 'pushback' | 'close' | 'drop';
    /** How long, in milliseconds, senders are held before the one that does not read is closed. Default 5,000. */
    slowConsumerTimeout?: number;
    /**
     * Bytes of all buffers and tables. Beyond it those who need more wait, new connections are
     * refused with 503, and the one that holds most is closed. Default: a quarter of the memory.
     */
    maxMemory?: number;
    /** Connections at one time; more are refused with 503. Default: 80 % of the file limit. */
    maxConnections?: number;
    /** Bytes of an id, and of an ack; more is refused. Default 8,192. */
    maxIdLength?: number;
    /** Receivers of one message; more is refused. Default 65,536. */
    maxDest?: number;
    /** Bytes of one message times its receivers; more is refused. Default 1 GiB. */
    maxFanoutBytes?: number;
    /** Fragments of one message; more closes its sender with 1008. Default 16,384. */
    maxFragments?: number;
    /** Pings and pongs of one connection in a second; more closes it with 1008. Default 100. */
    maxControlFrames?: number;
    /**
     * Refused actions of one connection in a minute; more closes it with 1008; 0: no limit.
     * Default: no limit; 100 with authentication.
     */
    maxProtocolErrors?: number;
    /** What one connection may send in a second; beyond it, it is read later. Default: no limit. */
    rateLimit?: RateLimit;
    /** Bytes of the head of a handshake; more is refused with 431. Default 16,384. */
    maxHeaderSize?: number;
    /** How long a handshake may take, in milliseconds; more is refused with 408. Default 10,000. */
    handshakeTimeout?: number;
    /**
     * How long a connection may have no id, in milliseconds; more closes it with 1008; 0: for ever.
     * Default: no limit; 10,000 with authentication.
     */
    registerTimeout?: number;
    /** Silence of a peer, in milliseconds, before it is sent a ping; 0: never. Default 25,000. */
    pingInterval?: number;
    /** Silence after the ping, in milliseconds, before the peer counts as dead. Default 20,000. */
    pingTimeout?: number;
    /** How long a closing connection may take, in milliseconds. Default 5,000. */
    closeTimeout?: number;
    /** How long a request may be answered, in milliseconds. Default 3,600,000. */
    ackTimeout?: number;
    /** Deliveries of one connection that may await an answer. Default 65,536. */
    maxPendingAcks?: number;
    /** Decides who may register; excludes `jwt`. Default: anybody may. */
    authenticate?: Authenticate;
    /** How long it may take, in milliseconds, before the client is refused. Default 5,000. */
    authenticateTimeout?: number;
    /** Lets in who shows a JSON Web Token for its id; excludes `authenticate`. Default: anybody may. */
    jwt?: JwtOptions;
    /**
     * Origins from which browsers may connect, such as `https://example.org`; `*` for all.
     * Default: any; that of the `Host` with authentication.
     */
    allowedOrigins?: readonly string[];
    /** Speaks TLS, and nothing else. Default: no TLS. */
    tls?: ServerTlsOptions;
    /** Is one with the other brokers of these NATS servers. Default: it is alone. */
    nats?: NatsOptions;
  }

  /** How a server closes. */
  interface CloseOptions {
    /**
     * Milliseconds for the conversations under way: requests are answered, and what waits is
     * written, before the connections are closed. Default 0.
     */
    drain?: number;
  }

  /**
   * A broker. It routes on threads of its own, whatever JavaScript does meanwhile.
   *
   * It takes part itself, as a client of its own: `send` and the like are those of `client`. `Message` is what
   * others send to it, `Answer` what it answers them.
   *
   * Not in browsers: there the constructor throws `ERR_WSMB_BROWSER`.
   */
  class Server<Message = any, Answer = any> extends Peer<ServerEvents, Message, Answer> {
    /**
     * @param port Port to listen on; 0 takes a free one; a name that is no number is a Unix socket.
     * @param path Path of the endpoint; a missing slash is added. Default `/`.
     */
    constructor(port: number | string, path?: string | null, options?: ServerOptions | null);
    constructor(port: number | string, options: ServerOptions & { path?: string });
    constructor(options: ServerOptions & { port: number | string; path?: string });

    /** The id under which it takes part itself. */
    readonly id: string;

    /**
     * Resolves when it listens; rejects with the error that is told in place of `'listening'`, or with
     * `ERR_WSMB_NOT_OPEN` where `close()` came first. Also when that is past. Where it is asked for in time
     * and nobody listens for `'error'`, the rejection is all that tells why the server could not listen.
     */
    readonly ready: Promise<void>;

    /**
     * The server as one of its clients, over no network: it is made, and registers the id of the option
     * `id`, when it is first asked for, by one of a client's methods too. It speaks version 2.
     */
    readonly client: WSMsgBroker<Message, Answer>;

    /** How long a request may be answered, in milliseconds: `ackTimeout`, changeable. */
    ttl: number;

    /** What it was started with; null once it is closed. */
    readonly wss: { options: { host: string; port: number | string; path: string } } | null;

    /** Where it listens: the path of a Unix socket, null once it is closed. */
    address(): Address | string | null;

    /** Counters; null once it is closed. */
    stats(): Stats | null;

    /** The ids registered here now, in no order; none once it is closed. */
    ids(): string[];

    /** Whether somebody has registered this id here. */
    has(id: string): boolean;

    /** All brokers of its cluster; null where it is alone (no option `nats`). */
    readonly cluster: Cluster | null;

    /**
     * Closes the connection that owns this id, behind what waits for it. The id is free when this
     * returns; nothing keeps the client from coming back. Other connections of its principal live on,
     * such as one that it has replaced.
     *
     * @param code What its `'close'` event tells: 1000, or 3000 to 4999. Default 1000.
     * @param reason What the close frame says beside the code: 123 bytes of UTF-8 at most. Default none.
     * @returns false if nobody has the id.
     * @throws TypeError or RangeError `ERR_WSMB_OPTION` for what cannot be in a close frame.
     */
    disconnect(id: string, code?: number, reason?: string): boolean;

    /**
     * The same; with `principal: true` for all connections of the principal that owns this id.
     *
     * @returns false if there is no such connection.
     * @throws TypeError or RangeError `ERR_WSMB_OPTION` for what cannot be in a close frame.
     */
    disconnect(id: string, options: DisconnectOptions): boolean;

    /**
     * Changes the certificate, and whom it lets in, for the connections to come. Files are read
     * again; connections that are there live on.
     *
     * @throws Error `ERR_WSMB_TLS` for what cannot be used, or a server without TLS: all stays as it was.
     */
    setTls(tls: ServerTlsOptions): void;

    /** Closes; the port is free when this returns. Resolves when the last connection has ended. */
    close(options?: CloseOptions): Promise<void>;
  }
}

export = WSMsgBroker;
