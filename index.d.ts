// Types for Node.js and browsers. They need TypeScript 5, `lib` ES2022 and a declaration of AbortSignal
// (`@types/node`, DOM or WebWorker), but not `@types/node` itself. A member that exists on one platform
// only is marked; docs/api.md lists the differences.

/** A listener of one event. */
type Listener<Events extends EventMap<Events>, Name extends keyof Events> = (
  ...args: Events[Name]
) => void;

/** Maps the name of each event to the arguments of its listeners. */
type EventMap<Events> = { [Name in keyof Events]: any[] };

/** Node's EventEmitter with typed events. Functions that expect an EventEmitter accept it. */
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

/** `await using`, for programs whose `lib` declares `Symbol.asyncDispose`. */
type Disposal = SymbolConstructor extends { readonly asyncDispose: infer Key extends symbol }
  ? { [Name in Key]: () => Promise<void> }
  : unknown;

/** Methods that clients and servers have in common. */
interface Messaging<Message, Answer> {
  /**
   * Queues a message and returns at once.
   *
   * @param message Any value that `JSON.stringify` accepts; it is serialised before `send` returns.
   * @param dest One id or several. An unknown id emits `warn` on the server; the sender gets no error.
   * @param callback Called with the first answer. If no receiver answers, it is never called: use `request`.
   * @returns false above `highWaterMark`: wait for `'drain'`. The message is queued in either case.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @throws Error `ERR_WSMB_MAX_QUEUED` above `maxQueued`.
   */
  send<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination | WSMsgBroker.MailboxAddress,
    callback?: WSMsgBroker.AnswerCallback<Received> | null,
  ): boolean;

  /**
   * Queues a message for the subscribers of a topic: the same as `send(message, { topic })`. Version 2 only.
   *
   * @throws TypeError `ERR_WSMB_TOPIC` if it is not a topic.
   * @throws Error as `send`.
   */
  publish<Sent = unknown>(message: Sent, topic: string): boolean;

  /**
   * Subscribes to a topic, or to all topics that match a pattern. Resolves when the broker has confirmed it. The
   * subscription lasts until `unsubscribe`, also across reconnections. Version 2 only.
   *
   * Rejects with `ERR_WSMB_TOPIC`, `ERR_WSMB_FORBIDDEN` or `ERR_WSMB_MAX_SUBSCRIPTIONS`.
   *
   * @param topic Tokens joined by `.`; `*` stands for any one token, a last `>` for one or more.
   * @example for await (const { message, topic } of await client.subscribe('room.*')) show(topic, message);
   */
  subscribe<Received = any, Result = any>(
    topic: string,
    options?: WSMsgBroker.SubscribeOptions,
  ): Promise<WSMsgBroker.Subscription<Received, Result>>;

  /**
   * Reads kept messages of a topic or a pattern: the newest `limit`, those before the offset `before`, or those behind the
   * offset `after`. Resolves with a page of them, oldest first. With `for await` all are read, one after the other:
   * forwards with `after`, otherwise backwards. Version 2 only.
   *
   * Rejects with `ERR_WSMB_NOT_KEPT`, `ERR_WSMB_FORBIDDEN`, or as the connection ends.
   *
   * @throws TypeError `ERR_WSMB_TOPIC`, `ERR_WSMB_OPTION`.
   * @example const { messages, more, next } = await client.history('room.7', { limit: 50 });
   */
  history<Received = any>(
    topic: string,
    options?: WSMsgBroker.HistoryOptions,
  ): Promise<WSMsgBroker.HistoryPage<Received>> & AsyncIterable<WSMsgBroker.Kept<Received>>;

  /**
   * Opens a mailbox: its messages are delivered to this client from now on, each until it is acknowledged. By default the
   * mailbox of the id of this client. Opened again after each reconnection. Version 2 only.
   *
   * Rejects with `ERR_WSMB_NO_MAILBOX`, `ERR_WSMB_FORBIDDEN`, `ERR_WSMB_MAX_SUBSCRIPTIONS`, or `ERR_WSMB_NOT_OPEN` if the
   * client has opened it already.
   *
   * @throws TypeError `ERR_WSMB_DEST`, `ERR_WSMB_OPTION`.
   * @example for await (const { message } of await client.openMailbox()) await save(message);
   */
  openMailbox<Received = any>(
    name?: string,
    options?: WSMsgBroker.MailboxOptions,
  ): Promise<WSMsgBroker.Mailbox<Received>>;

  /**
   * Watches the members of a topic: the ids that subscribe to it with `info`. Resolves when they are known. The watch
   * is up to date until it is closed, also across reconnections. Version 2 only.
   *
   * Rejects with `ERR_WSMB_TOPIC`, `ERR_WSMB_FORBIDDEN` or `ERR_WSMB_MAX_SUBSCRIPTIONS`.
   *
   * @example const room = await client.presence('room.7'); room.on('change', () => show(room.members));
   */
  presence<Info = any>(topic: string): Promise<WSMsgBroker.PresenceWatch<Info>>;

  /**
   * Watches which of these ids are registered. Resolves when that is known. Otherwise as `presence`.
   *
   * @example const { online } = await client.watch(['ann', 'bob']);
   */
  watch(ids: string | readonly string[]): Promise<WSMsgBroker.IdWatch>;

  /**
   * Sends a request and resolves with the first answer. The other receivers get a cancel. A failure or a
   * refusal rejects only if no other receiver can still answer.
   *
   * Rejects with a `RequestError`. A server of version 1 reports no failures: without an answer `timeout` ends the
   * request.
   *
   * @example const { from, message } = await client.request<Result>(job, ['worker-1', 'worker-2']);
   */
  request<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    options?: WSMsgBroker.RetryOptions,
  ): Promise<WSMsgBroker.Answered<Received>>;

  /**
   * Sends a request to several receivers and resolves with the outcome of each. Version 2 only.
   *
   * A receiver that does not answer is listed in `failed`. Rejects with a `RequestError` if the request was not
   * sent or was aborted.
   */
  requestAll<Received = any, Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Destination,
    options?: WSMsgBroker.GatherOptions,
  ): Promise<WSMsgBroker.Gathered<Received>>;

  /**
   * Sends a message and resolves with the broker's receipt: for which receivers the message is queued. Only an
   * answer proves that a receiver has read it. Version 2 only. Rejects with a `RequestError`.
   */
  deliver<Sent = unknown>(
    message: Sent,
    dest: string | readonly string[],
    options?: WSMsgBroker.WaitingOptions,
  ): Promise<WSMsgBroker.Delivery>;
  /** Sends a message to a topic and resolves with the number of its subscribers. */
  deliver<Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.Topic,
    options?: WSMsgBroker.RequestOptions,
  ): Promise<WSMsgBroker.Published>;
  /** Puts a message into mailboxes and resolves once it is stored in all that have room. */
  deliver<Sent = unknown>(
    message: Sent,
    dest: WSMsgBroker.MailboxAddress,
    options?: WSMsgBroker.MailOptions,
  ): Promise<WSMsgBroker.Stored>;

  /**
   * Async iterator over the messages that arrive from now on, with backpressure. Ends when the client ends. Each
   * call returns an independent stream; every stream and the `message` event get every message.
   *
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @example for await (const { message, answer } of client.messages()) answer?.(message * 2);
   */
  messages(
    options?: WSMsgBroker.MessagesOptions,
  ): AsyncIterableIterator<WSMsgBroker.Incoming<Message, Answer>>;

  /**
   * Calls a function for each message. If the sender waits for an answer, the result is the answer (`undefined`: null),
   * and an error refuses the request with its `code` and `message`. An error without `code`, or of a message whose
   * sender does not wait, is emitted as `error` if there is a listener; it never ends the process.
   *
   * @returns A function that stops the handler: messages that have arrived are still handled.
   * @throws Error `ERR_WSMB_HANDLER` if there is a handler already.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @example client.handle(async ({ a, b }) => a + b, { concurrency: 10 });
   */
  handle(
    handler: (message: Message, context: WSMsgBroker.HandlerContext) => Answer | Promise<Answer>,
    options?: WSMsgBroker.HandleOptions,
  ): () => void;
}

/** Base type of both classes; it does not exist at run time. */
declare const Peer: new <Events extends EventMap<Events>, Message, Answer>() => Emitter<Events> &
  Messaging<Message, Answer> &
  Disposal;

/**
 * A client: a connection to a broker, registered there under an id.
 *
 * It connects at the end of the tick in which it is constructed. Messages sent before it is registered are queued
 * and sent in order after the registration.
 *
 * `Message` is the type of incoming messages, `Answer` of the answers to them. The answer to a request is typed at
 * each call: `client.request<Result>(job, 'worker')`.
 */
declare class WSMsgBroker<Message = any, Answer = any> extends Peer<
  WSMsgBroker.ClientEvents<Message, Answer>,
  Message,
  Answer
> {
  /**
   * @param id The id of this client: 1 to 8,192 bytes of UTF-8.
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
  constructor(
    id: string | number,
    host: string,
    port: number | string,
    options: WSMsgBroker.ClientOptions,
  );

  /**
   * @param url Address of the broker, such as `ws://host:9042/path`, or `wss:` for TLS. User and password in it are
   *   sent as the header `Authorization`. Not in browsers.
   *   A function is called for each attempt to connect. Several addresses are tried in turn.
   * @throws TypeError `ERR_WSMB_ADDRESS` if the id or the scheme is missing, and for other schemes and fragments.
   */
  constructor(
    id: string | number,
    url: WSMsgBroker.BrokerUrl | readonly WSMsgBroker.BrokerUrl[],
    options?: WSMsgBroker.ClientOptions | null,
  );

  /** The id given to the constructor. */
  id: string | number;

  /** Approximate number of bytes queued. */
  readonly bufferedAmount: number;

  /**
   * Number of errors that the server or other clients have caused on open connections. They are emitted as `error`
   * only if there is a listener, so they never end the process.
   */
  readonly peerErrors: number;

  /** Callbacks of pending `send` calls, by ack. Kept for compatibility with 1.x. Not in browsers. */
  readonly ack2callback: Record<string, WSMsgBroker.AnswerCallback>;

  /**
   * Resolves with this client once it is registered. Rejects with the cause if the client ends before; that error
   * needs no `error` listener.
   */
  connected(options?: WSMsgBroker.ConnectedOptions): Promise<this>;

  /** The state of the connection. `'open'`: without an id, before the registration or after `unregister`. */
  readonly state: 'connecting' | 'open' | 'registered' | 'reconnecting' | 'closed';

  /** Connects at once if the client waits for its next attempt to connect. */
  reconnectNow(): void;

  /**
   * Closes the client once nothing is pending: no request or message may begin any more, pending requests of this client
   * end, the id is given up, requests that have arrived are answered (version 2), and the connection is closed. A client
   * that waits for its next attempt to connect closes at once. Resolves when the client has ended; never rejects.
   */
  drain(): Promise<void>;

  /** Lets the process end although the client is open. Not in browsers. */
  unref(): this;

  /** Reverts `unref`. Not in browsers. */
  ref(): this;

  /**
   * Registers the id again; `'registered'` follows. Renews the grant, or takes the id back after `unregister` or
   * `replaced`.
   *
   * @param token Token for this registration (omitted: none). Later connections send it too, unless the option
   *   `token` is a function.
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   * @throws TypeError `ERR_WSMB_OPTION` if the token is not a string.
   */
  register(token?: string): void;

  /**
   * Gives up the id. The connection stays open and may still send, without `from`. On a server with
   * authentication the next call must be `register`.
   *
   * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) on a client that is closed or closing.
   */
  unregister(): void;

  /**
   * Closes the client for good. Queued messages are written first if the connection is open. Resolves when the
   * connection has ended; never rejects.
   */
  close(): Promise<void>;
}

declare namespace WSMsgBroker {
  /** One id, several, or the subscribers of a topic. */
  type Destination = string | readonly string[] | Topic;

  /** Mailboxes as `dest` of `send` and `deliver`: one name, or several. */
  interface MailboxAddress {
    mailbox: string | readonly string[];
  }

  /** The subscribers of a topic, as a destination. */
  interface Topic {
    /** 1 to 16 tokens joined by `.`; a token has no `.`, `*`, `>`, space or control character. */
    topic: string;
  }

  /** Called with the id of the responder and its answer. */
  type AnswerCallback<Answer = any> = (from: string, answer: Answer) => void;

  /** Answers or refuses a request. The methods need no `this`: they can be destructured. */
  interface Response<Answer = any> {
    /**
     * Sends the answer. If a request has several receivers, the asker gets as many answers as it asked for, by
     * default the first one.
     *
     * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) once the connection has ended.
     */
    send(answer: Answer): void;

    /**
     * Refuses the request: the asker gets an error with this `code` (default `ERR_WSMB_REJECTED`) and `message`.
     * Other properties of the error are not sent. Version 2 only.
     *
     * @param reason An error, an object with `code` and `message`, or a text.
     * @throws Error `ERR_WSMB_NOT_NEGOTIATED` on a connection of version 1.
     * @throws Error `not opened` (`ERR_WSMB_NOT_OPEN`) once the connection has ended.
     */
    reject(reason: unknown): void;

    /**
     * Aborts when the answer is no longer needed: the request was cancelled, answered by another receiver or timed
     * out, its asker has disconnected, or this connection has ended. The reason has the code
     * `ERR_WSMB_CANCELLED`. Never aborts on a connection of version 1.
     */
    readonly signal: AbortSignal;

    /**
     * Number of the attempt, from 1: higher if the asker has sent the request to a group again (`retry`), because a member
     * has disconnected or was not available. That member may have done the work.
     */
    readonly attempt: number;
  }

  /** A message from `messages()`. */
  interface Incoming<Message = any, Answer = any> {
    message: Message;
    /** The id of the sender; undefined if it has none. */
    from: string | undefined;
    /** Null if the sender wants no answer. */
    response: Response<Answer> | null;
    /** `response.send`; undefined if the sender wants no answer. */
    answer: Response<Answer>['send'] | undefined;
  }

  /** Result of `request`. */
  interface Answered<Answer = any> {
    /** The id of the responder; undefined if it has lost its id since. */
    from: string | undefined;
    message: Answer;
  }

  /** Result of `requestAll`. Each receiver is in one of the two maps, unless `count` ended the request. */
  interface Gathered<Answer = any> {
    /** Answers by id, in the order of arrival. */
    answers: Map<string, Answer>;
    /** Errors by id. */
    failed: Map<string, RequestError>;
  }

  /** Result of `deliver`. Each id is in one of the two. */
  interface Delivery {
    /** Receivers for which the broker has queued the message. */
    delivered: string[];
    /** Errors of the others, by id. */
    failed: Map<string, RequestError>;
  }

  /** Result of `deliver` to a topic. */
  interface Published {
    /** Number of subscribers for which the broker has queued the message. */
    queued: number;
    /** Number of slow subscribers that have lost it. */
    dropped: number;
    /** In a cluster: whether it was sent to the other brokers, or NATS is unreachable. */
    elsewhere?: 'sent' | 'down';
    /** Its offset, if the messages of the topic are kept. */
    offset?: number;
    /** How safe it is then: `memory` is lost when the broker ends. Missing if the store of the broker has failed. */
    stored?: 'memory' | 'disk';
    /** By name how safe it is in the mailboxes that get the messages of the topic, too. */
    mailboxes?: Map<string, 'memory' | 'disk'>;
    /** Errors of those mailboxes that do not have it, by name. */
    failed?: Map<string, RequestError>;
  }

  /** Result of `deliver` to mailboxes. Each name is in `stored` or in `failed`. */
  interface Stored {
    /** By name how safe the message is: `memory` is lost when the broker ends. */
    stored: Map<string, 'memory' | 'disk'>;
    /** Errors of the others, by name: `FULL`, `NOT_STORED`. */
    failed: Map<string, RequestError>;
    /** The names of those that had a message with its `key` already. */
    duplicates: string[];
  }

  /** Options of `deliver` to mailboxes. */
  interface MailOptions extends RequestOptions {
    /**
     * A message with the key of another one of this sender, sent within 2 minutes, is stored once: a text of at most 128
     * bytes. Default: with `reconnect` a new one, so that a delivery is sent again after a lost connection.
     */
    key?: string | undefined;
  }

  /** Options of `openMailbox`. */
  interface MailboxOptions {
    /** Maximum number of messages that this client has not acknowledged. Default 64. */
    window?: number | undefined;
  }

  /** A message of a mailbox. */
  interface Mail<Message = any> {
    message: Message;
    /** The id of the sender, if it has one. */
    from: string | undefined;
    /** Rises within the mailbox. */
    offset: number;
    /** Number of its delivery. Begins at 2 after a restart of the broker. */
    attempt: number;
    /** The key of its sender, if it has one. */
    key?: string;
    /** The topic to which it was sent, if the mailbox gets the messages of topics. */
    topic?: string;
    /** It is done: removes it from the mailbox. */
    ack(): void;
    /** Gives it back, to be delivered again after so many milliseconds. Default 0. */
    retry(delay?: number): void;
  }

  /** Events of a mailbox. */
  interface MailboxEvents<Message = any> {
    /** A message, which `mail.ack()` removes. With a listener, loops and handlers get none. */
    message: [message: Message, mail: Mail<Message>];
    /** It is closed. `error`: why, if the program has not closed it. */
    end: [error: CodedError | undefined];
  }

  /**
   * An open mailbox. Each message goes to the listeners of `'message'`; without any to one of the loops, which acknowledge it
   * when they ask for the next one, or to the handler.
   */
  interface Mailbox<Message = any> extends AsyncIterable<Mail<Message>> {
    readonly name: string;
    /** The number of messages in the mailbox when it was opened last. */
    readonly waiting: number;
    /** An async iterator. After `break` or an error in the loop its message is delivered again. */
    messages(options?: { signal?: AbortSignal | undefined }): AsyncIterableIterator<Mail<Message>>;
    /**
     * Calls a function for each message, and acknowledges it when the function has ended. After an error it is delivered
     * again, after a second at first, and later after a minute. Returns a function that stops it.
     *
     * @throws Error `ERR_WSMB_HANDLER` if it has a handler, `ERR_WSMB_NOT_OPEN`.
     */
    handle(
      handler: (message: Message, mail: Mail<Message>) => unknown,
      options?: { concurrency?: number | undefined },
    ): () => void;
    /** Takes no further messages until `resume()`. */
    pause(): void;
    /** Ends a `pause()`. */
    resume(): void;
    /** Closes it. Messages that are not acknowledged stay. Resolves when the broker has confirmed it; never rejects. */
    close(): Promise<void>;
    on<Name extends keyof MailboxEvents>(
      name: Name,
      listener: Listener<MailboxEvents<Message>, Name>,
    ): this;
    once<Name extends keyof MailboxEvents>(
      name: Name,
      listener: Listener<MailboxEvents<Message>, Name>,
    ): this;
    off<Name extends keyof MailboxEvents>(
      name: Name,
      listener: Listener<MailboxEvents<Message>, Name>,
    ): this;
  }

  /** A place in the kept messages of one rule of a server. */
  interface Position {
    offset: number;
    /** Names the log: offsets of another one mean nothing in it. */
    epoch: string;
  }

  /** Options of `history`: at most one of `before` and `after`. */
  interface HistoryOptions {
    /** Messages with a smaller offset. Default: all. */
    before?: number | undefined;
    /** Messages with a greater offset, oldest first. */
    after?: number | undefined;
    /** Maximum number of messages of a page, at most 1,000; a page has at most about 1 MiB. Default 100. */
    limit?: number | undefined;
  }

  /** A kept message. */
  interface Kept<Message = any> {
    message: Message;
    from: string | undefined;
    topic: string;
    offset: number;
  }

  /** A page of kept messages. */
  interface HistoryPage<Message = any> {
    /** Oldest first. */
    messages: Kept<Message>[];
    /** Whether there are more in this direction. */
    more: boolean;
    /** The value of `before` or `after` for the next page. */
    next: number;
    /** The epoch of the log. */
    epoch: string;
  }

  /** Options of `subscribe`. */
  interface SubscribeOptions {
    /**
     * Treatment while more than `maxBackpressure` waits for this client at the broker. `drop`: messages are lost, and
     * `'gap'` tells how many. `latest`: the last message of each topic is kept. `wait`: publishers wait, if the server
     * has `allowWait`. Default `drop`.
     */
    slow?: 'drop' | 'latest' | 'wait' | undefined;
    /**
     * Joins the group of workers of this topic and name: each message goes to one member, the one with the least to do.
     * Default: no group, each subscriber gets each message.
     */
    group?: string | undefined;
    /**
     * With `group`: number of messages that this client has not finished at a time. A message is finished when the
     * handler has settled, or the iterator is asked for the next one. Default 64.
     */
    window?: number | undefined;
    /**
     * Makes this client a member of the topic, and is what `presence` shows of it: a JSON value but null. Not with
     * wildcards or `group`.
     */
    info?: unknown;
    /** Passed to the function `authorize` of the server, if the grant of this client does not cover the topic. */
    token?: string | undefined;
    /**
     * The kept messages to begin with: the last ones, those behind a position, or none (`'here'`). After a lost
     * connection the subscription goes on where it was. Only for topics of one rule of the server option `keep`, and not
     * with `group`. Default: no kept messages, also after a lost connection.
     */
    since?: 'here' | { last: number } | Position | undefined;
  }

  /** A message of a subscription. */
  interface Publication<Message = any, Answer = any> extends Incoming<Message, Answer> {
    topic: string;
    /** Its offset, if the messages of the topic are kept. */
    offset?: number;
  }

  /** Events of a subscription. */
  interface Watch<Change> extends AsyncIterable<Change> {
    /** Ends the watch. Resolves when the broker has confirmed it; never rejects. */
    close(): Promise<void>;
    on(name: 'change', listener: (change: Change) => void): this;
    on(name: 'end', listener: (error: Error | undefined) => void): this;
    once(name: 'change', listener: (change: Change) => void): this;
    once(name: 'end', listener: (error: Error | undefined) => void): this;
    off(name: 'change', listener: (change: Change) => void): this;
    off(name: 'end', listener: (error: Error | undefined) => void): this;
  }
  interface PresenceChange<Info = any> {
    /** The number of members. */
    count: number;
    /** Members that have joined, or have changed their `info`, by id. */
    joined: Map<string, Info>;
    /** Ids of members that have left. */
    left: string[];
  }
  interface PresenceWatch<Info = any> extends Watch<PresenceChange<Info>> {
    readonly topic: string;
    /** The number of members. */
    readonly count: number;
    /** The members by id. Undefined while there are more than `maxPresenceNames` of the server. */
    readonly members: ReadonlyMap<string, Info> | undefined;
  }
  interface IdWatch extends Watch<{ online: string[]; offline: string[] }> {
    /** The watched ids that are online. */
    readonly online: ReadonlySet<string>;
  }
  interface SubscriptionEvents<Message = any, Answer = any> {
    /** A message to a matching topic. */
    message: [
      message: Message,
      response: Response<Answer> | null,
      from: string | undefined,
      topic: string,
      offset: number | undefined,
    ];
    /**
     * Messages of this topic were lost, because this client was slow; of several topics if it is `'>'`. `lost` is null if
     * their number is not known: kept messages were removed before this client got them.
     */
    gap: [gap: { topic: string; lost: number | null }];
    /**
     * With a position in `since`, and after a reconnection: all messages since then follow, or some are not kept any more.
     * `lost`: their number, null if it is not known.
     */
    recovered: [recovery: { recovered: boolean; lost: number | null }];
    /** The subscription has ended. Without an error by `unsubscribe`. */
    end: [error: Error | undefined];
  }

  /** A subscription: an async iterable of its messages, with backpressure. */
  interface Subscription<Message = any, Answer = any>
    extends AsyncIterable<Publication<Message, Answer>> {
    /** The topic or pattern. */
    readonly topic: string;
    /** An async iterator over the messages that arrive from now on, as `messages()` of a client. */
    messages(options?: MessagesOptions): AsyncIterableIterator<Publication<Message, Answer>>;
    /** Calls a function for each message, as `handle()` of a client. */
    handle(
      handler: (message: Message, context: HandlerContext) => Answer | Promise<Answer>,
      options?: HandleOptions,
    ): () => void;
    /**
     * The place of the newest message that has arrived, for `since` of a later subscription. Undefined if the messages are
     * not kept by one rule.
     */
    readonly position: Position | undefined;
    /** The group of workers; undefined without one. */
    readonly group: string | undefined;
    /** Takes no further messages until `resume()`; the other members of the group get them. */
    pause(): void;
    /** Ends a `pause()`. */
    resume(): void;
    /** Ends the subscription. Resolves when the broker has confirmed it; never rejects. */
    unsubscribe(): Promise<void>;
    on<Name extends keyof SubscriptionEvents>(
      name: Name,
      listener: Listener<SubscriptionEvents<Message, Answer>, Name>,
    ): this;
    once<Name extends keyof SubscriptionEvents>(
      name: Name,
      listener: Listener<SubscriptionEvents<Message, Answer>, Name>,
    ): this;
    off<Name extends keyof SubscriptionEvents>(
      name: Name,
      listener: Listener<SubscriptionEvents<Message, Answer>, Name>,
    ): this;
  }

  /** Options of `request`, `requestAll` and `deliver`. */
  interface RequestOptions {
    /** Timeout in milliseconds, more than 0; `Infinity`: no timeout. Default `requestTimeout`. */
    timeout?: number | undefined;
    /** Cancels the request: it rejects with `ABORT_ERR`, and its receivers get a cancel. Default none. */
    signal?: AbortSignal | undefined;
  }

  /** Options of `request` and `deliver`. */
  interface WaitingOptions extends RequestOptions {
    /**
     * Time in milliseconds for which an unknown id is tried again, for example while its client reconnects. Default 0.
     */
    waitFor?: number | undefined;
  }

  /** Options of `request`. */
  interface RetryOptions extends WaitingOptions {
    /**
     * Number of further attempts when the receiver disconnects, or refuses with the code `UNAVAILABLE`: for requests to
     * groups that may be handled twice. Default 0.
     */
    retry?: number | undefined;
  }

  /** Options of `connected`. */
  interface ConnectedOptions {
    /** Rejects with `TIMEOUT` after so many milliseconds; the client goes on. Default none. */
    timeout?: number | undefined;
    /** Ends the wait with an `AbortError`; the client goes on. Default none. */
    signal?: AbortSignal | undefined;
  }

  /** Options of `handle`. */
  interface HandleOptions {
    /** Number of calls at a time; further messages wait, and the socket is not read. Default: no limit. */
    concurrency?: number | undefined;
  }

  /** The second argument of a handler. */
  interface HandlerContext {
    /** The sender's id; undefined if it has none. */
    readonly from: string | undefined;
    /** The topic to which it was sent; undefined if it was sent to an id. */
    readonly topic: string | undefined;
    /** As `attempt` of a `Response`; 1 if the sender does not wait for an answer. */
    readonly attempt: number;
    /** As `signal` of a `Response`. Never aborts if the sender does not wait for an answer. */
    readonly signal: AbortSignal;
  }

  /** Options of `requestAll`. */
  interface GatherOptions extends RequestOptions {
    /** Resolve after this number of answers and cancel the rest. Default: all. */
    count?: number | undefined;
  }

  /** Options of `messages`. */
  interface MessagesOptions {
    /**
     * Messages that the stream may buffer before the client stops reading its socket, pings included. No effect in
     * browsers, nor while this client has requests or receipts pending. Default 64.
     */
    highWaterMark?: number | undefined;
    /** Ends the stream: the iterator throws an `AbortError`. Default none. */
    signal?: AbortSignal | undefined;
  }

  /** Any other string. Keeps the completion of a union of literals in editors. */
  type OtherCode = string & Record<never, never>;

  /** Codes by which the server reports that a receiver failed. */
  type FailureCode =
    | 'UNKNOWN_ID'
    | 'NO_SUBSCRIBER'
    | 'BUSY'
    | 'GONE'
    | 'REPLACED'
    | 'SLOW'
    | 'TIMEOUT'
    | 'CLUSTER_DOWN'
    | 'FULL'
    | 'NOT_STORED';

  /** Error codes of this package; docs/api.md explains each and what to do. */
  type ErrorCode =
    | 'ERR_WSMB_ATTACH'
    | 'ERR_WSMB_TOPIC'
    | 'ERR_WSMB_MAX_PRESENCE_INFO'
    | 'ERR_WSMB_NOT_KEPT'
    | 'ERR_WSMB_NO_MAILBOX'
    | 'ERR_WSMB_MAX_SUBSCRIPTIONS'
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
    | 'ERR_WSMB_HANDLER'
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
    | 'ERR_WSMB_PROXY'
    | 'ERR_WSMB_REJECTED'
    | 'ERR_WSMB_SEND'
    | 'ERR_WSMB_STORE'
    | 'ERR_WSMB_THREADS'
    | 'ERR_WSMB_TLS'
    | 'ERR_WSMB_UNAUTHORIZED'
    | 'ERR_WSMB_UNAVAILABLE'
    | 'ERR_WSMB_UNEXPECTED_RESPONSE'
    | 'ERR_WSMB_UNKNOWN_ACK'
    | 'ERR_WSMB_UNKNOWN_ID'
    | 'ERR_WSMB_WEBSOCKET';

  /** An error of this package, of the system, or of your own functions. */
  interface CodedError extends Error {
    code?: ErrorCode | OtherCode | undefined;
    /** The error of each address, if the host has several and no attempt to connect has succeeded. */
    errors?: CodedError[] | undefined;
  }

  /** Rejection of a request or a delivery. */
  interface RequestError extends Error {
    /** A code of the client, of the server, or one that a responder passed to `reject`. */
    code: FailureCode | 'ABORT_ERR' | ErrorCode | OtherCode;
    /** The id of the responder that refused the request. */
    from?: string | undefined;
  }

  /** Events of a client and their arguments. */
  interface ClientEvents<Message = any, Answer = any> {
    /** Connected; the registration has been sent. */
    open: [];
    /** The server confirmed the registration. */
    registered: [];
    /** A message arrived. `response` is null if no answer is wanted; `from` is the id of the sender. */
    message: [message: Message, response: Response<Answer> | null, from: string | undefined];
    /**
     * The server's program has subscribed this client to a topic or a pattern (`addSubscriber`). The subscription ends
     * with the registration of this client. Version 2 only.
     */
    subscribed: [subscription: Subscription<Message, Answer>];
    /** The server confirmed `unregister`. */
    unregistered: [id: string];
    /**
     * Another connection has registered the id. This connection stays open without an id, and does not reconnect
     * when it ends. Version 2 only.
     */
    replaced: [id: string];
    /** The queue has been written, after `send` had returned false. */
    drain: [];
    /**
     * The server will close within this number of milliseconds. With `reconnect` the client connects again by
     * itself within that time, once no requests are pending in either direction. Version 2 only.
     */
    goaway: [within: number];
    /** The connection is lost: number of the next attempt (from 1), its delay in milliseconds, and the cause. */
    reconnecting: [attempt: number, delay: number, error: CodedError];
    /** Registered again; emitted after `registered`. */
    reconnected: [];
    /** The session continues on another connection, without loss; `reconnected` follows. Version 2. */
    resumed: [];
    /**
     * The connection failed, the server refused the registration, or it sent an invalid frame. `error.code` is
     * stable: `ERR_WSMB_UNAUTHORIZED`, `_FORBIDDEN` and `_CONFLICT` are refusals.
     *
     * Without a listener an error is thrown only if the connection could not be opened; all others are counted in
     * `peerErrors`. With `reconnect` a failed connection emits `reconnecting`; `error` follows the last attempt.
     */
    error: [error: CodedError];
    /**
     * The client has ended; emitted once. The code is undefined if the client was closed before it was open. 4401,
     * 4403 and 4409 are refusals: a retry with the same token fails again.
     */
    close: [code: number | undefined, reason?: string];
    refused: [error: Error];
  }

  /** PEM as text or bytes, or the path of a PEM file. */
  type Pem = string | Uint8Array;

  /** TLS version. */
  type TlsVersion = 'TLSv1.2' | 'TLSv1.3';

  /** TLS of a client: trusted authorities and the client's own certificate. */
  interface ClientTlsOptions {
    /**
     * Authorities for the server's certificate. Default: Mozilla's list, and the trust store of the process
     * (`NODE_EXTRA_CA_CERTS`, `SSL_CERT_FILE`, `SSL_CERT_DIR`, `--use-system-ca`), which they replace.
     */
    ca?: Pem | readonly Pem[] | undefined;
    /** Server name for SNI, and the name that the certificate must have. Default: the host. */
    servername?: string | undefined;
    /** The client's certificate, followed by those of its issuers. */
    cert?: Pem | undefined;
    /** The key of `cert`: PKCS#8, PKCS#1 or SEC1, not encrypted. */
    key?: Pem | undefined;
    /** `false` accepts any certificate: the connection is open to interception. Default true. */
    rejectUnauthorized?: boolean | undefined;
    /** Oldest accepted TLS version. Default `TLSv1.2`. */
    minVersion?: TlsVersion | undefined;
  }

  /** TLS of a server: its certificate, and whether it requires client certificates. */
  interface ServerTlsOptions {
    /** The server's certificate, followed by those of its issuers. */
    cert: Pem;
    /** The key of `cert`: PKCS#8, PKCS#1 or SEC1, not encrypted. */
    key: Pem;
    /** Authorities for client certificates; only with `requestCert`. */
    ca?: Pem | readonly Pem[] | undefined;
    /** Oldest accepted TLS version. Default `TLSv1.2`. */
    minVersion?: TlsVersion | undefined;
    /** Require a client certificate signed by `ca`. Default false. */
    requestCert?: boolean | undefined;
  }

  /** Reconnect with exponential backoff and jitter. */
  interface ReconnectOptions {
    /** First delay in milliseconds. Default 500. */
    minDelay?: number | undefined;
    /** Longest delay in milliseconds. Default 30,000. */
    maxDelay?: number | undefined;
    /** Growth of the delay per attempt, 1 to 100. Default 2. */
    factor?: number | undefined;
    /** Random share of each delay, 0 to 1. Default 1. */
    jitter?: number | undefined;
    /** Attempts since the last registration before the client ends. Default: no limit. */
    maxAttempts?: number | undefined;
  }

  /** The URL of a broker, or a function that returns it. */
  type BrokerUrl = string | URL | (() => string | URL | Promise<string | URL>);

  /** Options of a client. Sizes are in bytes, times in milliseconds, both whole numbers. */
  interface ClientOptions {
    /**
     * Newest protocol version to speak. 2 adds the reasons of failed requests, and falls back to 1 if the server speaks
     * only that; arguments of calls are checked. 1 is compatible with 1.x to the byte. By default a client in Node.js
     * offers version 2 and behaves as 1.x otherwise; in browsers the default is 2.
     */
    protocol?: 1 | 2 | undefined;
    /**
     * Token sent with the registration. A function is called for each connection, and before a JWT expires. Default:
     * none.
     */
    token?: string | (() => string | undefined | Promise<string | undefined>) | undefined;
    /** Reconnect and register again when the connection is lost; `true` uses the defaults. Default false. */
    reconnect?: boolean | ReconnectOptions | undefined;
    /**
     * With `reconnect`: whether requests pending when the connection was lost (1001, 1006, 1012) are sent again, so
     * that a receiver may get one twice. With `never` they fail with `ERR_WSMB_CONNECTION_LOST`. Default `never`.
     */
    resend?: 'never' | 'requests' | undefined;
    /**
     * With `reconnect`, at a server with `sessionTimeout`: continue after a lost connection without loss. A number
     * is the time in milliseconds, if shorter than that of the server. Default true.
     */
    session?: boolean | number | undefined;
    /** Timeout of requests; `Infinity`: no timeout. Default 30,000. */
    requestTimeout?: number | undefined;
    /** Closes the client when it aborts. Default: none. */
    signal?: AbortSignal | undefined;
    /**
     * Additional headers of the handshake, or a function that returns them, called for each attempt to connect.
     * `Host`, `Connection`, `Upgrade` and `Sec-WebSocket-*` cannot be set. Not in browsers. Default: none.
     */
    headers?:
      | Record<string, string>
      | (() => Record<string, string> | Promise<Record<string, string>>)
      | undefined;
    /** Largest message from the server. Not in browsers. Default 100 MiB + 64 KiB. */
    maxPayload?: number | undefined;
    /** Queued bytes above which `send` returns false. Default 1 MiB. */
    highWaterMark?: number | undefined;
    /** Queued bytes above which `send` throws. Default 1 GiB. */
    maxQueued?: number | undefined;
    /** Time until the WebSocket is open (in browsers: until the server's first message). Default 30,000. */
    connectTimeout?: number | undefined;
    /**
     * Send a ping if nothing arrived for this time; 0: never. In browsers, which cannot ping, a small request to
     * a server of version 2. Default 25,000.
     */
    pingInterval?: number | undefined;
    /** Time without a sign of life after the ping until the connection is dead (1006). Default 20,000. */
    pingTimeout?: number | undefined;
    /** Time without progress until a closing connection is cut. Not in browsers. Default 5,000. */
    closeTimeout?: number | undefined;
    /**
     * Use TLS; `true` uses the defaults. Not needed with a `wss:` URL, not allowed with a `ws:` URL. In browsers only
     * a boolean, for host and port. Default false; in browsers that of the page.
     */
    tls?: boolean | ClientTlsOptions | undefined;
    /**
     * Connect through an HTTP proxy: `http://user:password@host:port`, or `https:` for TLS to the proxy. `true` takes
     * it from the environment variables `HTTPS_PROXY` (`wss:`), `HTTP_PROXY` (`ws:`) or `ALL_PROXY`, except for hosts
     * in `NO_PROXY`. Not in browsers. Default false.
     */
    proxy?: string | boolean | undefined;
    /** Browsers only: the WebSocket class to use. Default `globalThis.WebSocket`. */
    WebSocket?: (new (url: string) => object) | undefined;
  }

  /** Address on which a server listens. */
  interface Address {
    address: string;
    family: 'IPv4' | 'IPv6';
    port: number;
  }

  /** Metrics of a server: gauges ("now") and counters since its start. */
  interface Stats {
    /** WebSockets open now. */
    connections: number;
    /** Ids registered now. */
    registered: number;
    /** Requests pending now. */
    pending: number;
    /** Bytes in buffers and tables now, as limited by `maxMemory`. */
    memory: number;
    /** WebSockets accepted. */
    accepted: number;
    /** Sockets taken over from an HTTP server by their descriptor. */
    handedOver: number;
    /** Sockets taken over from an HTTP server that JavaScript reads and writes. */
    bridged: number;
    /** Handshakes refused. */
    refused: number;
    /** Actions read. */
    messagesIn: number;
    /** Messages and answers queued for a receiver or its broker. */
    messagesOut: number;
    /** Messages to unknown ids. */
    unknownIds: number;
    /** Subscriptions of all connections. */
    subscriptions: number;
    /** Members of topics: subscriptions with `info`. */
    members: number;
    /** Messages that are kept now (`keep`). */
    kept: number;
    /** Bytes of them. */
    keptBytes: number;
    /** Kept messages removed because of a limit of their rule, or because memory was short. */
    trimmed: number;
    /** Messages that wait for the disk (`store`). */
    storePending: number;
    /** Bytes of the file of the store, with its free space. */
    storeBytes: number;
    /** Messages that were not stored: the store had failed, or too many waited for the disk. */
    notStored: number;
    /** Times that a subscription got messages from a log. */
    replays: number;
    /** Messages that wait in mailboxes now (`mailboxes`). */
    mail: number;
    /** Bytes of these; part of `memory`, unless they are on the disk. */
    mailBytes: number;
    /** Messages refused so far because a mailbox was full. */
    mailRefused: number;
    /** Messages of mailboxes delivered again so far. */
    redelivered: number;
    /** Messages removed from mailboxes so far because they were delivered too often. */
    deadLetters: number;
    /** Messages to topics without a subscriber. */
    withoutSubscriber: number;
    /** Sessions of clients. */
    sessions: number;
    /** Sessions whose client has lost its connection. */
    sessionsSuspended: number;
    /** Times that a session continued on another connection. */
    sessionsResumed: number;
    /** Sessions that ended because their client was not back in time, or because too much was queued for it. */
    sessionsEnded: number;
    /** Actions refused. */
    errors: number;
    /**
     * Connections closed because they violated the WebSocket protocol or exceeded `maxPayload`, `maxFragments`,
     * `maxControlFrames` or `maxProtocolErrors`.
     */
    violations: number;
    /** Connections closed as slow consumers. */
    slow: number;
    /** Messages and answers dropped for slow consumers (`slowConsumer: 'drop'`). */
    dropped: number;
    /** Connections closed because memory was short (`maxMemory`). */
    evicted: number;
    /** Connections found dead by the heartbeat (`pingTimeout`). */
    dead: number;
    /** Connections closed because they did not register in time (`registerTimeout`). */
    unregistered: number;
    /** Connections closed because the registration was refused (4401, 4403, 4409) or undecided (1013). */
    denied: number;
    /** Number of times that a connection was paused by `rateLimit`. */
    throttled: number;
    /** Bytes of the actions read, without frame headers. */
    receivedBytes: number;
    /** Bytes written to clients, with frame headers, without TLS. */
    sentBytes: number;
    /** WebSockets closed, by reason. */
    closed: Record<CloseReason, number>;
    /** Requests that have ended, by outcome. */
    requests: Record<RequestOutcome, number>;
    /** Connections that are not read now because the queue of a receiver is full. */
    sendersHeld: number;
    /** Bytes queued for clients now. */
    outboxBytes: number;
    /** Metrics of the cluster; missing without the option `nats`. */
    cluster?: ClusterStats | undefined;
  }

  /** Metrics of a server in a cluster. */
  interface ClusterStats {
    /** Whether NATS is reachable and passes on the messages of this broker. */
    connected: boolean;
    /** Brokers known now, including this one. While NATS is unreachable: those known before. */
    brokers: number;
    /** Ids claimed by this broker now; each is one NATS subscription. */
    claims: number;
    /** Ids at other brokers in use now: a message was sent in the last half second, or an answer is pending. */
    remotes: number;
    /** Messages received from other brokers. */
    received: number;
    /** Messages to ids at other brokers while NATS was unreachable. */
    unreachable: number;
    /** Number of times that messages for this broker were lost because they arrived too fast. */
    lagged: number;
    /** Messages to topics dropped because later ones of the same broker and topic had arrived before. */
    late: number;
    /** Number of times that the connection to NATS was lost. */
    lost: number;
  }

  /** Argument of `slow`: the connection was closed, was closed to free memory, or its messages are dropped. */
  type SlowReason = 'closed' | 'memory' | 'dropping';

  /** Why a WebSocket has ended. */
  type CloseReason =
    | 'client'
    | 'lost'
    | 'going_away'
    | 'slow'
    | 'memory'
    | 'not_registered'
    | 'violation'
    | 'too_many'
    | 'denied'
    | 'dead'
    | 'requested';

  /** Argument of `disconnected`. */
  interface EndedConnection extends ConnectionInfo {
    /** The id that it had; undefined without one. */
    id: string | undefined;
    reason: CloseReason;
    /** The code of the close frame that was sent or received first; undefined without one. */
    code: number | undefined;
    /** How long it was open, in milliseconds. */
    duration: number;
    /** Messages that the client has sent. */
    messages: number;
    /** Their bytes, without frame headers. */
    bytesReceived: number;
    /** Bytes written to the client, with frame headers. */
    bytesSent: number;
  }

  /** Argument of `refused`. */
  interface RefusedHandshake extends ConnectionInfo {
    /** The HTTP status; `tls`: the TLS handshake failed; `dropped`: the socket was closed without a response. */
    status: string;
  }

  /** Outcome of a request. */
  type RequestOutcome =
    | 'answered'
    | 'rejected'
    | 'timeout'
    | 'cancelled'
    | 'gone'
    | 'slow'
    | 'unknown_id'
    | 'cluster_down';

  /** Options of `server.disconnect`. */
  interface DisconnectOptions {
    /** Close code: 1000, or 3000 to 4999. Default 1000. */
    code?: number | undefined;
    /** Close reason: at most 123 bytes of UTF-8. Default none. */
    reason?: string | undefined;
    /**
     * Close all connections at this server of the principal that owns the id, also those without an id and those
     * whose registration is pending. Without authentication: all connections whose last registration was this id.
     * Default false: only the owner of the id.
     */
    principal?: boolean | undefined;
  }

  /**
   * State of the cluster connection of a server.
   *
   * - `connected`: NATS is reachable and has processed the subscriptions of this broker.
   * - `disconnected`: the connection to NATS is lost.
   * - `lagged`: messages for this broker were lost; requests in flight fail.
   * - `failed`: NATS refused an operation, or is unreachable and retried.
   * - `missing`: NATS is `required` but was unreachable until the timeout; the server closes.
   */
  type ClusterState = 'connected' | 'disconnected' | 'lagged' | 'failed' | 'missing';

  /** Error of a `denied` event; the client receives its `message`. */
  interface DeniedError extends Error {
    code:
      | 'ERR_WSMB_UNAUTHORIZED'
      | 'ERR_WSMB_FORBIDDEN'
      | 'ERR_WSMB_CONFLICT'
      | 'ERR_WSMB_UNAVAILABLE';
  }

  /** Where a connection comes from. With `trustProxy`: the client, as the proxy reports it. */
  interface ConnectionInfo {
    /** IP address; empty for a Unix socket and the server's own client, and if a proxy does not report it. */
    remoteAddress: string;
    /** Port; undefined if unknown. */
    remotePort: number | undefined;
    /** Whether the client uses TLS. */
    secure: boolean;
  }

  /** A certificate that a client has presented, and that `tls.ca` has signed. Texts as in `crypto.X509Certificate`. */
  interface ClientCertificate {
    /** The common name (CN) of the subject; undefined if there is none, or several. */
    commonName: string | undefined;
    subject: string;
    subjectAltName: string | undefined;
    issuer: string;
    serialNumber: string;
    validFrom: string;
    validTo: string;
    /** SHA-256 of the certificate: hexadecimal pairs with colons. */
    fingerprint256: string;
    /** The certificate in DER. */
    raw: Uint8Array;
  }

  /** Events of a server and their arguments. */
  interface ServerEvents {
    /** Bound: `address()` is known. With `nats.required` the cluster is also connected. */
    listening: [];
    /** A WebSocket was accepted. */
    connection: [info: ConnectionInfo];
    /** A connection registered an id; also when it takes the id over from another one. */
    registered: [id: string, info: ConnectionInfo];
    /** An id has no owner any more. */
    unregistered: [id: string];
    /** The session of an id, whose connection was lost, continues on another connection. */
    resumed: [id: string, info: ConnectionInfo];
    /** A message was sent to an unknown id. In a cluster one event may stand for several messages. */
    warn: [error: Error & { code: ErrorCode }];
    /** A peer sent an invalid or forbidden frame, `authenticate` failed, or the server could not listen. */
    error: [error: CodedError];
    /** A registration was refused or has expired, and the connection is closed. `id`: requested or former id. */
    denied: [id: string | null, error: DeniedError];
    /** A WebSocket has ended. */
    disconnected: [connection: EndedConnection];
    /** A socket did not become a WebSocket; with `server` and `noServer` that of an upgrade request. */
    refused: [refusal: RefusedHandshake];
    /** A connection is a slow consumer: its id, if any, and the measure taken. */
    slow: [id: string | null, why: SlowReason];
    /** With `nats`: the state of the cluster; a reason for `failed` and `missing`, else null. */
    cluster: [state: ClusterState, reason: string | null];
    /**
     * Number of `connection`, `disconnected`, `refused`, `warn`, `error`, `slow` and `denied` events that were counted
     * but not emitted, because the event loop was busy. With `logger` also events for the log.
     */
    dropped: [count: number];
  }

  /** Credentials of a registration. */
  interface Credentials {
    /** The requested id. */
    id: string;
    /** The token of the registration. */
    token: string | undefined;
    /** Headers of the handshake: lower-case names; repeated headers are joined by `, `. */
    headers: Record<string, string>;
    /** Path and query of the URL, as sent: `new URL(url, 'ws://host').searchParams` parses the query. */
    url: string;
    /**
     * Remote address of the socket, or with `trustProxy` that of the client; empty for a Unix socket, and if a proxy does
     * not report it.
     */
    remoteAddress: string;
    /** The result of `allowUpgrade`, or the `context` of `handleUpgrade`. */
    context: any;
    /** Whether the socket uses TLS, or with `trustProxy` whether the client does. */
    secure: boolean;
    /** With `tls.requestCert`: the certificate of the client. */
    certificate: ClientCertificate | undefined;
  }

  /** A rule of topics whose messages are kept. Beyond a limit the oldest ones are removed. */
  interface KeepRule {
    /** A topic, or a pattern with wildcards. */
    topic: string;
    /** Maximum number of messages of each topic. Default 100. */
    messages?: number | undefined;
    /** Maximum age of a message in milliseconds. Default: no limit. */
    age?: number | undefined;
    /** Maximum bytes of the messages of all its topics; about 200 count for each besides its frame. Default 64 MiB. */
    bytes?: number | undefined;
    /** Whether they are kept on the disk, in the `store` of the server. Default false: in memory. */
    disk?: boolean | undefined;
  }

  /** A rule of mailboxes. Beyond a limit further messages are refused. */
  interface MailboxRule {
    /** The name of a mailbox, or the beginning of names and `*`. The mailbox of a client has its id as name. */
    mailbox: string;
    /**
     * Messages to this topic, or to the topics of this pattern, go into the mailbox, too. Needs a name without `*`.
     * Default: none.
     */
    topic?: string | undefined;
    /** Maximum number of messages of each mailbox. Default 1,000. */
    messages?: number | undefined;
    /** Maximum bytes of the messages of each mailbox. Default 1 MiB. */
    bytes?: number | undefined;
    /** Maximum bytes of the messages of all its mailboxes; about 200 count for each besides its frame. Default 64 MiB. */
    totalBytes?: number | undefined;
    /** Maximum age of a message in milliseconds; older ones are removed. Default: no limit. */
    age?: number | undefined;
    /** Whether they are kept on the disk, in the `store` of the server. Default false: in memory. */
    disk?: boolean | undefined;
    /** How often a message is delivered at most; 0: no limit. Default 0. */
    maxDeliver?: number | undefined;
    /** The topic that gets a message which was delivered so often. Default: it is removed. */
    deadLetters?: string | undefined;
  }

  /** The store of kept messages on the disk. */
  interface StoreOptions {
    /** The folder; it is created if it does not exist. One server at a time can use it. */
    path: string;
    /**
     * When messages are written. `batch`: at once, with those that came during the last write. A number: in this interval
     * in milliseconds. `never`: once a second, and receipts do not wait for the disk. Default `batch`.
     */
    sync?: 'batch' | 'never' | number | undefined;
    /** Maximum bytes of the messages of all rules; beyond it the oldest ones are removed, and mailboxes are full. Default 4 GiB. */
    maxBytes?: number | undefined;
  }

  /** Rights of a client: a plain object without other members. */
  interface Grant {
    /**
     * Identity of the client: a string that is not empty, or a finite number. Other principals cannot take over an
     * id while its owner is connected. Default: the id.
     */
    principal?: string | number | undefined;
    /** Ids that it may send to: patterns with `*` for any characters (no escape). Default: anybody. */
    send?: string | readonly string[] | undefined;
    /** Topics that it may send to: patterns, in which `{id}` stands for its id. Default: none. */
    publish?: string | readonly string[] | undefined;
    /** Topics that it may subscribe to: each subscription must be covered by one of these patterns. Default: none. */
    subscribe?: string | readonly string[] | undefined;
    /** Topics whose members it may see. Default: none. */
    presence?: string | readonly string[] | undefined;
    /** Ids of which it may see whether they are online: patterns as in `send`. Default: none. */
    watch?: string | readonly string[] | undefined;
    /** Patterns of the mailboxes that it may open besides that of its id. Default: none. */
    mailboxes?: string | readonly string[] | undefined;
    /** Time at which its connection ends unless it has registered again. Default: never. */
    expires?: Date | number | undefined;
  }

  /**
   * Decides on a registration. `true` or a grant accepts the client; any other value, and an exception, refuse it.
   *
   * The client gets the message of an error whose code is `ERR_WSMB_UNAUTHORIZED` or `ERR_WSMB_FORBIDDEN`. The
   * server emits `error` for any other error, and a `TypeError` for a value of another type.
   */
  type Authenticate = (
    credentials: Credentials,
  ) => boolean | Grant | null | undefined | Promise<boolean | Grant | null | undefined>;

  /** The argument of `authorize`: a subscription that the grant of a client does not cover. */
  interface TopicRequest {
    /** The id of the client. */
    id: string;
    /** The principal of its grant. */
    principal: string;
    /** The only action so far. */
    action: 'subscribe';
    /** The topic or pattern. */
    topic: string;
    /** The option `token` of `subscribe`. */
    token: string | undefined;
  }

  /**
   * Decides on a subscription. Any value but `true`, an exception and the timeout refuse it. The server emits `error` for
   * an error whose code is neither `ERR_WSMB_FORBIDDEN` nor `ERR_WSMB_UNAUTHORIZED`, and for a value of another type.
   */
  type Authorize = (
    request: TopicRequest,
  ) => boolean | null | undefined | Promise<boolean | null | undefined>;

  /** Which JSON Web Tokens are accepted. One of `secret` and `publicKey` is required. */
  interface JwtOptions {
    /** Secret shared with the issuer: at least 32 bytes (HS384: 48, HS512: 64). */
    secret?: string | Uint8Array | undefined;
    /** Public key of the issuer in PEM: RSA, P-256, P-384 or Ed25519. */
    publicKey?: string | Uint8Array | undefined;
    /** Allowed algorithms. Default: HS256, RS256, ES256, ES384 or EdDSA, according to the key. */
    algorithms?: readonly string[] | undefined;
    /** Allowed values of the claim `iss`, not empty. Default: anybody. */
    issuer?: string | readonly string[] | undefined;
    /** Allowed values of the claim `aud`, not empty. Default: anybody. */
    audience?: string | readonly string[] | undefined;
    /** Whether the claim `sub` is the id or a pattern of ids. Default `exact`. */
    subject?: 'exact' | 'pattern' | undefined;
    /** Tolerated clock difference in milliseconds, at most 600,000. Default 0. */
    leeway?: number | undefined;
    /** Whether tokens must expire (claim `exp`). Default true. */
    requireExp?: boolean | undefined;
  }

  /**
   * NATS connection of a broker. Brokers that use the same NATS and `namespace` form a cluster; see docs/cluster.md.
   * Credentials: at most one of `user`, `token`, `nkey` and `creds`.
   */
  interface NatsOptions {
    /**
     * URLs of NATS servers: `nats://host:4222`, `tls://host` or `host`; credentials as in
     * `nats://user:password@host`. If one is unreachable, the next is tried.
     */
    servers: string | readonly string[];
    /** Name of the cluster: 1 to 64 letters, digits, `-` and `_`. Default `default`. */
    namespace?: string | undefined;
    /** Name of this broker, unique in the cluster, 1 to 64 bytes. Default: a random one. */
    name?: string | undefined;
    /** NATS user. Default: none. */
    user?: string | undefined;
    /** Password of `user`. Default: none. */
    pass?: string | undefined;
    /** NATS token. Default: none. */
    token?: string | undefined;
    /** Seed of an NKey, `SU...`. Default: none. */
    nkey?: string | undefined;
    /** Credentials file: its path or its text. Default: none. */
    creds?: string | undefined;
    /**
     * Use TLS; `true` uses the defaults; `servername` is always the host of the URL. Default false: TLS only if the
     * URL (`tls://`) or NATS requires it.
     */
    tls?: boolean | ClientTlsOptions | undefined;
    /**
     * Require NATS at the start: `'listening'` waits for it, and after `timeout` the server closes
     * (`ERR_WSMB_CLUSTER`). Otherwise the server starts without the cluster and keeps trying. Default false.
     */
    required?: boolean | undefined;
    /** Timeout for `required`, in milliseconds. Default 5,000. */
    timeout?: number | undefined;
  }

  /** Options of cluster queries. */
  interface ClusterSearchOptions {
    /** Timeout in milliseconds, more than 0. Default 1,000. */
    timeout?: number | undefined;
  }

  /** A cluster of brokers, as seen by one of them. */
  interface Cluster {
    /** Names of the brokers known now, including this one, sorted. Empty once the server is closed. */
    brokers(): string[];

    /**
     * Resolves with the ids registered at all brokers, in no order. `silent` names the brokers that did not
     * answer in time; their ids may be missing. Expensive with very many ids: all are transferred.
     *
     * Rejects with `ERR_WSMB_NOT_OPEN` once the server is closed.
     */
    ids(options?: ClusterSearchOptions): Promise<{ ids: string[]; silent: string[] }>;

    /**
     * Resolves with whether an id is registered, and the name of its broker. Asks all brokers; `silent` names those
     * that did not answer in time.
     *
     * Rejects with `ERR_WSMB_NOT_OPEN` once the server is closed.
     */
    has(
      id: string,
      options?: ClusterSearchOptions,
    ): Promise<{ has: boolean; broker: string | null; silent: string[] }>;
  }

  /** Limits per connection and second. */
  interface RateLimit {
    /** Messages of any kind, including pings. Default: no limit. */
    messages?: number | undefined;
    /** Bytes, including frame headers. Default: no limit. */
    bytes?: number | undefined;
  }

  /**
   * Options of a server. Sizes are in bytes, times in milliseconds, both whole numbers. `docs/limits.md` explains
   * each limit.
   */
  /** An HTTP server of `node:http`, `node:https`, or `node:http2` with `allowHTTP1`. */
  interface HttpServer {
    prependListener(event: 'upgrade', listener: (...args: any[]) => void): unknown;
    listen(...args: any[]): unknown;
    address(): unknown;
  }

  /** A request that an HTTP server has received. */
  interface HttpRequest {
    method?: string | undefined;
    url?: string | undefined;
    headers: Record<string, string | string[] | undefined>;
    rawHeaders: string[];
  }

  /** A JSON value, or an object or array of such values. */
  type UpgradeContext = string | number | object;

  type UpgradeDecision = UpgradeContext | boolean | undefined;

  /** A method, so that the request of a function may have the type of the HTTP server. */
  interface AllowUpgrade {
    call(request: HttpRequest): UpgradeDecision | Promise<UpgradeDecision>;
  }

  interface UpgradeOptions {
    /** The address of the client. Default: that of the socket. */
    remoteAddress?: string | undefined;
    /** The `context` for `authenticate`: JSON of at most 4 KiB. */
    context?: UpgradeContext | null | undefined;
  }

  interface ServerOptions {
    /**
     * Id of the server's own client, unique in a cluster. If set, it is registered at the start, otherwise at first
     * use. Default `server`; with `nats` `server-` and the name of the broker.
     */
    id?: string | undefined;
    /** Address to listen on. Only with `port`. Default `0.0.0.0`. */
    host?: string | undefined;
    /**
     * Descriptor of a listening TCP or Unix socket that systemd or a parent process has opened. The server listens on a
     * copy; socket and descriptor stay open when it closes. Not on Windows. Default: none.
     */
    fd?: number | undefined;
    /** The HTTP server whose port is shared. Default: none. */
    server?: HttpServer | undefined;
    /** No port: sockets come by `handleUpgrade`. Default false. */
    noServer?: boolean | undefined;
    /**
     * With `server`: decides about an upgrade request. False refuses it with 401, an error with 403. Other results than
     * `true` and `undefined` are the `context` for `authenticate`: JSON of at most 4 KiB. Default: none.
     */
    allowUpgrade?: AllowUpgrade['call'] | undefined;
    /**
     * Share the port with other servers that have this option, in processes of the same user, such as workers of
     * `node:cluster`; with `nats` they form one broker. Linux distributes the connections. Linux and macOS only.
     * Default false.
     */
    reusePort?: boolean | undefined;
    /**
     * Number of proxies in front of the server. Their headers `X-Forwarded-For` and `X-Forwarded-Proto`, or `Forwarded`,
     * name the client; `true` trusts the first entry, also if a client wrote it. Or the networks of the proxies, such as
     * `10.0.0.0/8`, `::1`, `loopback`, `linklocal` and `uniquelocal`. Default 0.
     */
    trustProxy?: boolean | number | string | string[] | undefined;
    /**
     * Each connection begins with a header of the PROXY protocol (version 1 or 2) that names the client; others are
     * closed. Only with `port`. Default false.
     */
    proxyProtocol?: boolean | undefined;
    /** Path at which GET and HEAD are answered with 200. Only with `port`. Default: none. */
    health?: string | undefined;
    /** Permissions of the Unix socket, in octal digits or as a number. Default: those of the process. */
    socketMode?: string | number | undefined;
    /** Routing threads. Default: one per core, at most 4. */
    threads?: number | undefined;
    /** Largest message; beyond it the sender is closed with 1009. Default 100 MiB. */
    maxPayload?: number | undefined;
    /** Largest message to `server.client`; beyond it a message is dropped, a request refused. Default 1 MiB. */
    clientMaxPayload?: number | undefined;
    /** Bytes queued for one connection before `slowConsumer` applies. Default 16 MiB. */
    maxBackpressure?: number | undefined;
    /**
     * Policy for slow consumers. `pushback`: backpressure, the broker stops reading from its senders. `close`: the
     * connection is closed at once. `drop`: messages to it are dropped and counted. Default `pushback`.
     */
    slowConsumer?: 'pushback' | 'close' | 'drop' | undefined;
    /** Time that senders are blocked before the slow connection is closed. Default 5,000. */
    slowConsumerTimeout?: number | undefined;
    /**
     * Bytes of all buffers and tables. Beyond it senders wait, new connections are refused with 503, and the
     * connection that uses most is closed. Default: a quarter of the memory.
     */
    maxMemory?: number | undefined;
    /** Open connections; more are refused with 503. Default: 80 % of the file limit. */
    maxConnections?: number | undefined;
    /** Length of an id or an ack in bytes; longer ones are refused. Default 8,192. */
    maxIdLength?: number | undefined;
    /** Receivers of one message; beyond it the message is refused. Default 65,536. */
    maxDest?: number | undefined;
    /** Bytes of one message times its receivers; beyond it the message is refused. Default 1 GiB. */
    maxFanoutBytes?: number | undefined;
    /** Subscriptions of one connection; further ones are refused. 0: no topics. Default 1,024. */
    maxSubscriptions?: number | undefined;
    /** Distinct patterns with wildcards, of all connections; further ones are refused. Default 65,536. */
    maxPatterns?: number | undefined;
    /** Bytes of what a member of a topic tells of itself; more is refused. Default 1,024. */
    maxPresenceInfo?: number | undefined;
    /** Members of a topic that watchers get by name; of more they get the number. Default 1,000. */
    maxPresenceNames?: number | undefined;
    /** Time in milliseconds after which a member or an id that has lost its connection is gone. Default 3,000. */
    presenceTimeout?: number | undefined;
    /** Time in milliseconds for which the session of a client outlives a lost connection; 0: no sessions. Default 0. */
    sessionTimeout?: number | undefined;
    /** Bytes that a session keeps for its client; beyond it a session without a connection ends. Default 1 MiB. */
    maxSessionBuffer?: number | undefined;
    /** Topics whose messages are kept: the first rule that matches counts. Not with `nats`. Default: none. */
    keep?: readonly KeepRule[] | undefined;
    /** Mailboxes: the first rule that matches counts. Not with `nats`. Default: none. */
    mailboxes?: readonly MailboxRule[] | undefined;
    /** The store of the rules of `keep` and `mailboxes` with `disk`. Default: none. */
    store?: StoreOptions | undefined;
    /** Whether subscriptions may make publishers wait (`slow: 'wait'`). Default false. */
    allowWait?: boolean | undefined;
    /** Fragments of one message; beyond it the sender is closed with 1008. Default 16,384. */
    maxFragments?: number | undefined;
    /** Pings and pongs per connection and second; beyond it the connection is closed with 1008. Default 100. */
    maxControlFrames?: number | undefined;
    /**
     * Refused actions per connection and minute; beyond it the connection is closed with 1008; 0: no limit.
     * Default: no limit; 100 with authentication.
     */
    maxProtocolErrors?: number | undefined;
    /** Rate limit per connection; beyond it the connection is read later. Default: no limit. */
    rateLimit?: RateLimit | undefined;
    /** Size of the handshake request; larger ones are refused with 431. Default 16,384. */
    maxHeaderSize?: number | undefined;
    /** Time for the handshake; later ones are refused with 408. Default 10,000. */
    handshakeTimeout?: number | undefined;
    /**
     * Time that a connection may stay without an id before it is closed with 1008; 0: no limit.
     * Default: no limit; 10,000 with authentication.
     */
    registerTimeout?: number | undefined;
    /** Send a ping if nothing arrived for this time; 0: never. Default 25,000. */
    pingInterval?: number | undefined;
    /** Time without a sign of life after the ping until the connection is dead. Default 20,000. */
    pingTimeout?: number | undefined;
    /** Time until a closing connection is cut. Default 5,000. */
    closeTimeout?: number | undefined;
    /** Longest lifetime of a request. Default 3,600,000. */
    ackTimeout?: number | undefined;
    /** Pending deliveries of requests per connection. Default 65,536. */
    maxPendingAcks?: number | undefined;
    /** Decides on each registration; excludes `jwt`. Default: anybody may. */
    authenticate?: Authenticate | undefined;
    /** Timeout of `authenticate` and `authorize`; then the client, or the subscription, is refused. Default 5,000. */
    authenticateTimeout?: number | undefined;
    /** Decides on subscriptions that a grant does not cover; needs `authenticate` or `jwt`. Default: they are refused. */
    authorize?: Authorize | undefined;
    /** Requires a JSON Web Token for each id; excludes `authenticate`. Default: anybody may. */
    jwt?: JwtOptions | undefined;
    /**
     * Origins from which browsers may connect, such as `https://example.org`; `https://*.example.org` for its
     * subdomains at any depth; `*` for all.
     * Default: any; that of the `Host` with authentication.
     */
    allowedOrigins?: readonly string[] | undefined;
    /** Accept only TLS connections. Default: no TLS. */
    tls?: ServerTlsOptions | undefined;
    /** Form a cluster with the other brokers of these NATS servers. Default: no cluster. */
    nats?: NatsOptions | undefined;
    /** Serve metrics and health over HTTP, at an address of its own. Default: no endpoint. */
    admin?: AdminOptions | undefined;
    /**
     * Log what happens at the server: a pino or bunyan logger, `console`, or an object with some of these methods. At
     * least one is required. Default: no log.
     */
    logger?: Logger | undefined;
  }

  /** Method of a logger for one level. */
  type LogMethod = (members: LogMembers, message: string) => unknown;

  /**
   * A logger. Methods that are missing, and levels below `level` or refused by `isLevelEnabled`, are not called. An error
   * of a method is a warning of the process.
   */
  interface Logger {
    debug?: LogMethod | undefined;
    info?: LogMethod | undefined;
    warn?: LogMethod | undefined;
    error?: LogMethod | undefined;
    /** The lowest level to log, such as `info`, or `silent`. It may change. Other values: the logger decides. */
    level?: unknown;
    /** Takes precedence over `level`. */
    isLevelEnabled?: ((level: 'debug' | 'info' | 'warn' | 'error') => boolean) | undefined;
  }

  /** Object of a line of the log: never a message, a token, a query or a header. */
  interface LogMembers {
    event: LogEvent;
    /** Members of the event, as `docs/guides/monitoring.md` lists them. */
    [member: string]: unknown;
  }

  /** Subject of a line of the log: an event of the server where there is one. */
  type LogEvent =
    | 'listening'
    | 'admin_listening'
    | 'connection'
    | 'disconnected'
    | 'registered'
    | 'taken_over'
    | 'resumed'
    | 'unregistered'
    | 'refused'
    | 'denied'
    | 'slow'
    | 'invalid_action'
    | 'unknown_id'
    | 'cluster'
    | 'dropped'
    | 'failure'
    | 'closing'
    | 'closed'
    | 'suppressed';

  /**
   * The admin endpoint: `GET /metrics`, `/healthz` and `/readyz`, and a dashboard at `/`. It answers while the event loop
   * is blocked. It listens at `port` and `host`, or on `fd`.
   */
  type AdminOptions = AdminBaseOptions & (AdminAddress | AdminSocket);

  /** The address of the admin endpoint. */
  interface AdminAddress {
    /** Port, or the path of a Unix socket. Port 0 picks a free port: see `adminAddress()`. */
    port: number | string;
    /** Address to listen on. Other than a loopback address only with `token`. Default `127.0.0.1`. */
    host?: string | undefined;
    fd?: undefined;
  }

  /** The inherited socket of the admin endpoint. */
  interface AdminSocket {
    /**
     * Descriptor of a listening TCP or Unix socket, which stays open when the server closes. A TCP socket at another
     * address than a loopback address only with `token`.
     */
    fd: number;
    port?: undefined;
    host?: undefined;
  }

  /** Options of the admin endpoint, wherever it listens. */
  interface AdminBaseOptions {
    /**
     * Token that requests for `/metrics` and the dashboard must have (`Authorization: Bearer <token>`): at least 16
     * characters of ASCII. Default: none, and the dashboard disconnects no client.
     */
    token?: string | undefined;
  }

  /** Callback of `server.close`. */
  type CloseCallback = (error?: Error & { code: 'ERR_WSMB_NOT_OPEN' }) => void;

  /** Options of `server.close`. */
  interface CloseOptions {
    /**
     * Drain timeout in milliseconds: pending requests are answered and queues written before connections are closed.
     * Default 0.
     */
    drain?: number | undefined;
    /**
     * Time in milliseconds before that, in which the server goes on and accepts clients, but its admin endpoint is not
     * ready (`/readyz` is 503), so that load balancers send no new clients. A call without it ends that time. Default 0.
     */
    delay?: number | undefined;
  }

  /**
   * A broker. It routes on its own threads, even while the event loop is busy.
   *
   * A server has a client of its own, `client`; its messaging methods such as `send` are those of that client.
   * `Message` is the type of messages to it, `Answer` of its answers.
   *
   * Not in browsers: there the constructor throws `ERR_WSMB_BROWSER`.
   */
  class Server<Message = any, Answer = any> extends Peer<ServerEvents, Message, Answer> {
    /**
     * @param port Port to listen on; 0 takes a free one; a string that is not a number is a Unix socket.
     * @param path Path of the endpoint, without `?` and `#`; a missing slash is added, and characters that a URL cannot
     * contain are escaped. Default `/`.
     */
    constructor(port: number | string, path?: string | null, options?: ServerOptions | null);
    constructor(port: number | string, options: ServerOptions & { path?: string });
    constructor(options: ServerOptions & { port: number | string; path?: string });
    /** A server that listens on a socket of another process. */
    constructor(options: ServerOptions & { fd: number; path?: string });
    /** @param server An HTTP server whose port is shared. */
    constructor(server: HttpServer, path?: string | null, options?: ServerOptions | null);
    constructor(server: HttpServer, options: ServerOptions & { path?: string });
    constructor(options: ServerOptions & { server: HttpServer; path?: string });
    /** A server without a port: it gets its sockets by `handleUpgrade`. */
    constructor(options: ServerOptions & { noServer: true; path?: string });

    /**
     * Takes over the socket of an upgrade request that the program has received. Returns how: `bridge` if JavaScript
     * has to read and write it. Never throws because of the peer.
     */
    handleUpgrade(
      request: HttpRequest,
      socket: object,
      head?: Uint8Array | null,
      options?: UpgradeOptions | null,
    ): 'native' | 'bridge' | 'refused';

    /** The id of `client`. */
    readonly id: string;

    /**
     * Resolves when the server listens. Rejects with the error that is emitted instead of `'listening'`, or with
     * `ERR_WSMB_NOT_OPEN` if `close()` came first. It can be read at any time; if you read it in the tick of the
     * construction, the error needs no `error` listener, and if you never read it, there is no unhandled rejection.
     */
    readonly ready: Promise<void>;

    /**
     * The server's own client: speaks version 2 without a network connection. Created and registered at the start if
     * the option `id` is set, otherwise at first use, also by a messaging method of the server.
     */
    readonly client: WSMsgBroker<Message, Answer>;

    /** Longest lifetime of a request in milliseconds: `ackTimeout`, can be changed. */
    ttl: number;

    /** The arguments of the constructor; null once the server is closed. */
    readonly wss: { options: { host: string; port: number | string; path: string } } | null;

    /** The bound address, or the path of a Unix socket; null once the server is closed. */
    address(): Address | string | null;

    /** The bound address of the admin endpoint, or the path of its Unix socket; null without one. */
    adminAddress(): Address | string | null;

    /** All metrics as text for Prometheus; null once the server is closed. */
    metrics(): string | null;

    /** Metrics; null once the server is closed. */
    stats(): Stats | null;

    /** Ids registered at this server, in no order; empty once it is closed. */
    ids(): string[];

    /** Whether an id is registered at this server. */
    has(id: string): boolean;

    /**
     * Makes a client of this broker a subscriber of a topic or a pattern, whatever its grant allows. The client emits
     * `subscribed` before it gets messages. The subscription ends with the registration: call this in `registered`.
     *
     * Rejects with `UNKNOWN_ID`, with `ERR_WSMB_NOT_NEGOTIATED` if the client speaks version 1, and with
     * `ERR_WSMB_TOPIC`, `ERR_WSMB_MAX_SUBSCRIPTIONS` or `ERR_WSMB_NOT_OPEN`.
     *
     * @param topic Tokens joined by `.`; `*` stands for any one token, a last `>` for one or more.
     * @example server.on('registered', (id) => server.addSubscriber('news.>', id).catch(() => {}));
     */
    addSubscriber(topic: string, id: string): Promise<void>;

    /**
     * Ends the subscription of a client of this broker to a topic or a pattern, also one that the client has made:
     * `end` of the subscription has an error with the code `REMOVED`. Resolves with false if there is none. Rejects as
     * `addSubscriber`.
     */
    removeSubscriber(topic: string, id: string): Promise<boolean>;

    /**
     * The ids at this broker that get messages to a topic, members of groups included, sorted. Empty once the server is
     * closed.
     *
     * @throws TypeError `ERR_WSMB_TOPIC` if it is not a topic.
     */
    subscribers(topic: string): string[];

    /** The numbers of messages and bytes in a mailbox; null if no rule allows the mailbox. */
    mailbox(name: string): { messages: number; bytes: number } | null;

    /** The cluster of this server; null without the option `nats`. */
    readonly cluster: Cluster | null;

    /**
     * Closes the connection that owns an id, after its queue is written. The id is free when `disconnect` returns.
     * The client may connect again, and other connections of its principal, such as one that it replaced, stay open.
     *
     * @param code Close code: 1000, or 3000 to 4999. Default 1000.
     * @param reason Close reason: at most 123 bytes of UTF-8. Default none.
     * @returns false if the id is unknown.
     * @throws TypeError or RangeError `ERR_WSMB_OPTION` for an invalid code or reason.
     */
    disconnect(id: string, code?: number, reason?: string): boolean;

    /**
     * Closes the connection that owns an id; with `principal: true` all connections of its principal.
     *
     * @returns false if there is no such connection.
     * @throws TypeError or RangeError `ERR_WSMB_OPTION` for an invalid code or reason.
     */
    disconnect(id: string, options: DisconnectOptions): boolean;

    /**
     * Replaces certificate, key and client authorities for new connections. Files are read again. Open connections
     * are not affected.
     *
     * @throws Error `ERR_WSMB_TLS` for an invalid certificate or key, or a server without TLS; nothing changes then.
     */
    setTls(tls: ServerTlsOptions): void;

    /**
     * Replaces keys and conditions of tokens for new registrations. Registered clients keep their grants.
     *
     * @throws RangeError `ERR_WSMB_OPTION` for an invalid option, or a server without `jwt`; nothing changes then.
     */
    setJwt(jwt: JwtOptions): void;

    /**
     * Replaces the token of the admin endpoint.
     *
     * @throws RangeError `ERR_WSMB_OPTION` for an invalid token, or a server without one; nothing changes then.
     */
    setAdminToken(token: string): void;

    /**
     * Closes the server; the port is free when `close` returns. Resolves when the last connection has ended.
     *
     * @param callback Called when the promise resolves, with an error (`ERR_WSMB_NOT_OPEN`) if the server was already
     * closed.
     */
    close(callback: CloseCallback): Promise<void>;
    close(options?: CloseOptions | null, callback?: CloseCallback | null): Promise<void>;

    /** The open server does not keep the process alive, and neither does its `client`. Returns the server. */
    unref(): this;

    /** Undoes `unref`. Returns the server. */
    ref(): this;
  }
}

export = WSMsgBroker;
