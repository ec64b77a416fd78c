'use strict';

// Tests of scripts/prose.js with files in a temporary folder: it reports each phrase with file and line, and
// nothing else.

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawnSync } = require('node:child_process');
const test = require('ava');

const script = path.join(__dirname, '..', 'scripts', 'prose.js');

/** Runs the linter on these files in a temporary folder. Returns its exit status and its lines. */
function lint(t, files) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmsgbroker-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    fs.writeFileSync(path.join(folder, name), text);
  }
  const { status, stdout } = spawnSync(process.execPath, [script, '.'], {
    cwd: folder,
    encoding: 'utf8',
  });
  return { status, lines: stdout.split('\n').filter((line) => line !== '') };
}

/** Sentences, and the reported phrase of each. */
const PHRASES = [
  ['It goes to whoever asks.', 'whoever'],
  ['It goes to nobody.', 'nobody'],
  ['The stream pushes back.', 'pushes back'],
  ['There is no push-back here.', 'push-back'],
  ['The sender is told.', 'is told'],
  ['The senders are not told, and go on.', 'are not told'],
  ['The event tells.', 'tells'],
  ['It is over: the server says so.', 'says so'],
  ['The client hears of it.', 'hears'],
  ['While NATS is away it waits.', 'NATS is away'],
  ['A receiver that does not keep up is closed.', 'keep up'],
  ['It has lost its patience.', 'patience'],
  ['It works in vain.', 'in vain'],
  ['It goes in silence.', 'in silence'],
  ['It ends without a word.', 'without a word'],
  ['Waits before the how manieth attempt.', 'manieth'],
  ['It answers as ever.', 'as ever'],
  ['The server takes part itself.', 'takes part itself'],
  ['Brokers with one NATS are one.', 'are one'],
  ['It is one with the other brokers.', 'one with the other'],
  ['A client that means harm.', 'means harm'],
];

test('each phrase is reported in Markdown, Rust, JavaScript and TypeScript', (t) => {
  const formats = {
    'a.md': (text) => `# Title\n\n${text}\n`,
    'a.rs': (text) => `//! A module.\n\n/// ${text}\n`,
    'a.js': (text) => `'use strict';\n\nconst a = 1; // ${text}\n`,
    'a.d.ts': (text) => `// Types.\n\n/**\n * Text.\n *\n * ${text}\n */\n`,
  };
  for (const [name, format] of Object.entries(formats)) {
    // Each sentence has a folder of its own, in the order of their names.
    const folders = PHRASES.map((_, index) => String(index).padStart(2, '0'));
    const files = PHRASES.map(([text], index) => [`${folders[index]}/${name}`, format(text)]);
    const { status, lines } = lint(t, Object.fromEntries(files));
    t.is(status, 1);
    const number = name === 'a.d.ts' ? 6 : 3;
    t.deepEqual(
      lines.slice(0, -1).map((line) => line.slice(0, line.lastIndexOf('": '))),
      PHRASES.map(([, found], index) => `${folders[index]}/${name}:${number}: "${found}`),
    );
    t.is(lines.at(-1), `${PHRASES.length} findings`);
  }
});

test('a doc comment does not begin with "The same", "What" or "Who"', (t) => {
  const { status, lines } = lint(t, {
    'a.rs': '//! The same for others.\n\n/// What it does.\nfn a() {}\n// What it does.\n',
    'b.js': "'use strict';\n\n// Who is asked.\n\n/** What it does. */\n// What it does.\n",
    'c.ts': '/**\n * Whoever asks.\n */\n/* What it does. */\n',
  });
  t.is(status, 1);
  t.deepEqual(
    lines.map((line) => line.slice(0, line.indexOf('": ') + 1)),
    [
      'a.rs:1: "The same"',
      'a.rs:3: "What"',
      'b.js:3: "Who"',
      'b.js:5: "What"',
      'c.ts:2: "Whoever"',
      'c.ts:2: "Whoever"',
      'c.ts:4: "What"',
      '',
    ],
  );
});

test('a phrase is found across the end of a line', (t) => {
  const { lines } = lint(t, { 'a.rs': '/// The sender is\n/// told.\n', 'b.md': 'It is\ntold.\n' });
  t.deepEqual(
    lines.slice(0, -1).map((line) => line.slice(0, line.lastIndexOf('": '))),
    ['a.rs:1: "is told', 'b.md:1: "is told'],
  );
});

test('clean prose, code and foreign folders are not reported', (t) => {
  const { status, lines } = lint(t, {
    'a.md': [
      'The server is told to close. The client tells the server its id.',
      '',
      'The id `nobody` is unknown. A number is one of these. Whatever the version.',
      '',
      '```js',
      "send('it', 'nobody');",
      '// nobody',
      '```',
      '',
      '    nobody',
    ].join('\n'),
    'b.js': "const nobody = 'ws://nobody'; // An unknown id.\n",
    'c.rs': '/// Connects to `nobody`.\nfn tell(nobody: &str) -> &str { "nobody" }\n',
    'node_modules/d.js': '// nobody\n',
    'e.txt': 'nobody\n',
  });
  t.deepEqual(lines, []);
  t.is(status, 0);
});
