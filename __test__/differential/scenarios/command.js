'use strict';

// The command line tool, wsbrokerserver <port> [path].

// The first client that is not refused. The others leave no trace in the recording.
async function connected(stage, port, path) {
  for (let attempt = 1; ; attempt++) {
    const name = `attempt ${attempt}`;
    const client = stage.connect('a', { port }, { path, name });
    const came = (event) => (stage.recording()[name] || []).some(([seen]) => seen === event);
    await stage.when(() => came('registered') || came('close'), `${name} to come to an end`);
    const registered = came('registered');
    stage.forget(name);
    if (registered) return client;
  }
}

module.exports = [
  ...[[], ['some'], ['/some'], ['']].map((args) => ({
    title: `wsbrokerserver <port> ${JSON.stringify(args)} prints its address, registrations and disconnections`,
    async play(stage) {
      const port = await stage.freePort();
      stage.command([port, ...args]);
      await stage.until('command', 'prints');
      // 1.7.2 prints its line before it listens, so a first client may be refused.
      const client = await connected(stage, port, args[0]);
      await stage.until('command', 'prints', 2);
      client.close();
      await stage.until('command', 'prints', 3);
    },
  })),
  {
    title: 'wsbrokerserver without a port fails and prints nothing on stdout',
    async play(stage) {
      const { ended } = stage.command([]);
      stage.log('program', 'fails', (await ended) !== 0);
      stage.forgetLast('command', 'ends');
    },
  },
  {
    title: 'a signal ends wsbrokerserver',
    async play(stage) {
      const port = await stage.freePort();
      const command = stage.command([port]);
      await stage.until('command', 'prints');
      command.kill('SIGKILL');
      await stage.until('command', 'ends');
    },
  },
];
