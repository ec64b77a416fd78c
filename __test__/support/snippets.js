'use strict';

// Runs the examples of a document as a reader would.
//
// ```js          runs, as a module of its own if it imports something; otherwise it continues the first
//                one of its document
// ```ts          compiles
// // Prints: x   the exact output of the example, line by line
//
// Examples use port 9042; here each gets a broker on a free port. Examples of other languages are not checked
// (```javascript belongs to other projects).

const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const util = require('node:util');
const ts = require('typescript');
const { authority } = require('../../testkit/certificates');
const WSMsgBroker = require('../..');

const root = path.join(__dirname, '..', '..');
const PORT = 9042;
const IMPORT = /^import (?:(\w+)(?:, )?)?(\{[^}]*\})? ?from '([^']+)';/gm;
const AsyncFunction = (async () => {}).constructor;

/** The code blocks of a document in this language: `[line, code]`. */
function blocks(file, language) {
  const text = fs.readFileSync(path.join(root, file), 'utf8');
  const fence = new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm');
  return [...text.matchAll(fence)].map(({ index, 1: code }) => [
    text.slice(0, index).split('\n').length,
    code,
  ]);
}

/** The programs of a document: `[line, code]`. */
function programs(file) {
  const found = blocks(file, 'js');
  const isWhole = (code) => code.search(IMPORT) >= 0;
  // In braces, because it may declare names that exist already.
  const whole = (code) => (isWhole(code) ? code : `${found[0][1]}\n{\n${code}\n}`);
  return found.map(([line, code]) => [line, whole(code)]);
}

/** A module as CommonJS. */
const required = (code) =>
  code.replace(IMPORT, (_, whole, parts, name) =>
    [whole, parts?.replaceAll(' as ', ': ')]
      .filter(Boolean)
      .map((names) => `const ${names} = require('${name}');`)
      .join(' '),
  );

/** The class for programs whose broker is at port 9042. `opened` collects all created objects. */
function local(opened) {
  let port = PORT;
  const map = (value) => (typeof value === 'string' ? value.replace(PORT, port) : value);
  const track = (object) => {
    opened.push(object);
    return object;
  };
  const Server = new Proxy(WSMsgBroker.Server, {
    construct(Class, [first, second, third], Target) {
      if (first?.prependListener) {
        // An HTTP server, whose port the program knows.
        return track(Reflect.construct(Class, [first, second, third], Target));
      }
      const path = typeof second === 'object' ? second : { ...third, path: second };
      const given = typeof first === 'object' ? first : { ...path, port: first };
      const options = { host: '127.0.0.1', ...given, port: 0 };
      const server = track(Reflect.construct(Class, [options], Target));
      ({ port } = server.address());
      return server;
    },
  });
  return new Proxy(WSMsgBroker, {
    construct: (Class, args, Target) =>
      track(
        Reflect.construct(
          Class,
          args.map((value) => (value === PORT ? port : map(value))),
          Target,
        ),
      ),
    get: (Class, name) => (name === 'Server' ? Server : Class[name]),
  });
}

/** Runs a program and compares its output with the comments. */
async function run(t, code) {
  const expected = [...code.matchAll(/\/\/ Prints: (.*)$/gm)].map(([, text]) => text);
  const opened = [];
  t.teardown(() => Promise.all(opened.map((each) => each.close())));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'wsmb-'));
  t.teardown(() => fs.rmSync(folder, { recursive: true }));
  const { ca, issue } = authority();
  for (const [name, pem] of Object.entries({ ca, ...issue() })) {
    fs.writeFileSync(path.join(folder, `${name}.pem`), pem);
  }
  const here = code.replace(/'(ca|cert|key)\.pem'/g, (_, name) =>
    JSON.stringify(path.join(folder, `${name}.pem`)),
  );

  const printed = [];
  let wake = () => {};
  const log = (...values) => {
    printed.push(util.format(...values));
    wake();
  };
  const modules = { wsmsgbroker: local(opened) };
  const load = (name) => modules[name] ?? require(name);
  const program = new AsyncFunction('require', 'console', required(here));
  await program(load, { ...console, log });
  while (printed.length < expected.length) {
    await new Promise((resolve) => {
      wake = resolve;
    });
  }
  t.deepEqual(printed, expected);
}

/** The output of the compiler for the TypeScript examples. */
function compile(files) {
  const config = ts.readConfigFile(path.join(root, '__test__', 'tsconfig.json'), ts.sys.readFile);
  const parsed = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const sources = new Map(
    files.flatMap((file) =>
      blocks(file, 'ts').map(([line, code]) => [
        path.join(root, `${file}.${line}.mts`).replaceAll(path.sep, '/'),
        code,
      ]),
    ),
  );
  const host = ts.createCompilerHost(parsed.options);
  const { readFile, fileExists } = host;
  host.readFile = (name) => sources.get(name) ?? readFile(name);
  host.fileExists = (name) => sources.has(name) || fileExists(name);
  const program = ts.createProgram([...sources.keys()], parsed.options, host);
  const found = ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
    const text = ts.flattenDiagnosticMessageText(messageText, ' ');
    return `${path.basename(file?.fileName ?? '')}: ${text}`;
  });
  return { count: sources.size, found };
}

module.exports = { programs, run, compile };
