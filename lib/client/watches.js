'use strict';

// The watches of a client, across its connections: of members of topics, and of ids.

const callAll = require('./callAll');
const { coded, remote } = require('./errors');
const frames = require('./frames');
const Watch = require('./watch');

const isEqual = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/**
 * An entry:
 *
 *     watch          the object of the program
 *     ids            the ids as an array, of which `unknown` (a Set) are not known yet; undefined for a topic
 *     resolve, reject  of the promise of the first state; `isKnown` after that
 *     isEnding       the program has ended it; `ended`: the promise of that, and `resolveEnd`
 */
class Watches {
  #session;
  /** By the number that the frames have as `ref`. */
  #entries = new Map();

  constructor(session) {
    this.#session = session;
  }

  /** Watches a topic or ids, at once or when the client is registered. Resolves when their state is known. */
  add(topic, ids) {
    const number = this.#session.requests.nextReference();
    return new Promise((resolve, reject) => {
      const watch = new Watch(this.#session, topic, () => this.#end(number));
      if (ids) {
        watch.online = new Set();
      }
      this.#entries.set(number, { watch, ids, unknown: new Set(ids), resolve, reject });
      if (this.#session.holdsRegistration) {
        this.#send(number);
      }
    });
  }

  /** Watches again on a new connection. */
  onRegistered() {
    const again = [...this.#entries].filter(([, { isEnding }]) => !isEnding);
    callAll(
      again.map(
        ([number]) =>
          () =>
            this.#send(number),
      ),
    );
  }

  /** The registration has ended, and with it the watches that the program is ending. */
  onLost() {
    const lost = [...this.#entries].filter(([, { isEnding }]) => isEnding);
    callAll(
      lost.map(
        ([number]) =>
          () =>
            this.#drop(number),
      ),
    );
  }

  #send(number) {
    const entry = this.#entries.get(number);
    if (!entry) {
      return;
    }
    const { watch, ids } = entry;
    try {
      this.#session.assertVersion2();
      this.#session.sendFrame(frames.watch('watch', watch.topic, ids, number), true);
    } catch (error) {
      this.#drop(number, error);
    }
  }

  #end(number) {
    const session = this.#session;
    const entry = this.#entries.get(number);
    if (entry && !entry.isEnding) {
      entry.isEnding = true;
      entry.ended = new Promise((resolve) => {
        entry.resolveEnd = resolve;
      });
      const { topic } = entry.watch;
      const ids = entry.ids && this.#unused(entry.ids);
      const isOther = (one) => !one.isEnding && one.watch.topic === topic;
      const isUsed = ids ? ids.length === 0 : [...this.#entries.values()].some(isOther);
      if (session.holdsRegistration && !isUsed) {
        session.sendFrame(frames.watch('unwatch', topic, ids, number), true);
      } else {
        this.#drop(number);
      }
    }
    return entry?.ended ?? Promise.resolve();
  }

  /** Removes a watch. `error`: why it has ended, if the program has not ended it. */
  #drop(number, error) {
    const entry = this.#entries.get(number);
    // A listener of another watch may have ended it.
    if (!entry) {
      return;
    }
    const { watch, reject, resolveEnd } = entry;
    this.#entries.delete(number);
    for (const each of watch.messageStreams) {
      each.endStream();
    }
    reject(error ?? coded('ERR_WSMB_CLOSED', 'closed'));
    resolveEnd?.();
    watch.emit('end', error);
  }

  /** A watch has ended. `code`: the broker has ended all of this topic, or of these ids. */
  onUnwatched(number, topic, ids, code) {
    if (!code) {
      if (this.#entries.get(number)?.isEnding) {
        this.#drop(number);
      }
      return;
    }
    const isMeant = ({ watch, ids: own }) =>
      ids ? own?.some((id) => ids.includes(id)) : watch.topic === topic;
    const ended = [...this.#entries].filter(([, entry]) => isMeant(entry));
    const error = remote({ code, message: 'watch ended' });
    for (const [, entry] of ended) {
      entry.isEnding = true;
    }
    // The broker still watches the other ids of these.
    const rest = ended.flatMap(([, { ids: own }]) => own ?? []);
    const unused = this.#unused(rest.filter((id) => !ids?.includes(id)));
    if (unused.length > 0) {
      this.#session.sendFrame(frames.watch('unwatch', undefined, unused, number ?? 0), true);
    }
    callAll(
      ended.map(
        ([each]) =>
          () =>
            this.#drop(each, error),
      ),
    );
  }

  /** Those of these ids that no watch of the program needs. */
  #unused(ids) {
    const others = [...this.#entries.values()].filter((one) => !one.isEnding);
    const used = new Set(others.flatMap((one) => one.ids ?? []));
    return ids.filter((id) => !used.has(id));
  }

  /** The broker has refused a frame. Returns false if it is of no watch. */
  onRefused(number, error) {
    const isKnown = this.#entries.has(number);
    if (isKnown) {
      this.#drop(number, error);
    }
    return isKnown;
  }

  /** The members of a topic have changed; or ids are online or offline. */
  onPresence(topic, count, members, joined, left, online, offline) {
    const changes = [];
    for (const entry of this.#entries.values()) {
      if (online && entry.ids) {
        changes.push(this.#updateIds(entry, online, offline ?? []));
      } else if (topic !== undefined && entry.watch.topic === topic) {
        changes.push(this.#updateMembers(entry, count, members, joined, left ?? []));
      }
    }
    // Listeners may throw, and end other watches.
    callAll(changes.filter(Boolean));
  }

  /** Returns a function that resolves the promise or emits the change; undefined if nothing follows. */
  #updateMembers(entry, count, members, joined, left) {
    const { watch, isKnown } = entry;
    // Changes of a state that another watch of this topic knows already.
    if (joined && !isKnown) {
      return;
    }
    const before = watch.members;
    const now = members ? new Map(Object.entries(members)) : undefined;
    const change = { count, joined: now ?? new Map(), left: [] };
    if (joined && before) {
      change.joined = new Map(Object.entries(joined));
      change.left = left;
      for (const [id, info] of change.joined) {
        before.set(id, info);
      }
      for (const id of left) {
        before.delete(id);
      }
    } else {
      if (now && before) {
        change.joined = new Map([...now].filter(([id, info]) => !isEqual(before.get(id), info)));
        change.left = [...before.keys()].filter((id) => !now.has(id));
      }
      watch.members = now;
    }
    const isNew =
      change.joined.size > 0 || change.left.length > 0 || count !== watch.count || !now !== !before;
    watch.count = count;
    return () => this.#tell(entry, change, isNew);
  }

  #updateIds(entry, online, offline) {
    const { watch, ids, unknown } = entry;
    const changed = (list, isOnline) =>
      list.filter((id) => {
        const isNew = ids.includes(id) && (unknown.delete(id) || watch.online.has(id) !== isOnline);
        watch.online[isOnline && ids.includes(id) ? 'add' : 'delete'](id);
        return isNew;
      });
    const change = { online: changed(online, true), offline: changed(offline, false) };
    const isNew = change.online.length + change.offline.length > 0;
    return unknown.size === 0 && (() => this.#tell(entry, change, isNew));
  }

  /** Tells the program of a change, or that the first state is known. */
  #tell(entry, change, isNew) {
    const { watch } = entry;
    if (!entry.isKnown) {
      entry.isKnown = true;
      entry.resolve(watch);
    } else if (isNew && !entry.isEnding) {
      for (const each of watch.messageStreams) {
        each.pushMessage(change, 1);
      }
      watch.emit('change', change);
    }
  }

  /** Ends all: the client has ended. */
  end(error) {
    callAll([...this.#entries.keys()].map((number) => () => this.#drop(number, error)));
  }
}

module.exports = Watches;
