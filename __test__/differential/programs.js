'use strict';

// Runs scenarios about the end or the output of a process in processes of their own.

const { spawn } = require('node:child_process');
const { once } = require('node:events');

const original = require.resolve('../original');

// Runs `main(WSMsgBroker, print, argument, WebSocket)`, given as a function without free variables.
async function runProgram(stage, implementation, main, argument) {
  const source = `
    const print = (text) => require('node:fs').writeSync(1, text + '\\n');
    const WSMsgBroker = require(${JSON.stringify(implementation.main)});
    const { WebSocket } = require(${JSON.stringify(original)});
    (${main})(WSMsgBroker, print, ${JSON.stringify(argument)}, WebSocket);
  `;
  const child = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'ignore'] });
  stage.cleanup(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  const [code, signal] = await once(child, 'close');
  return { lines: output.split('\n').filter(Boolean), code, signal };
}

// Starts wsbrokerserver and logs its lines as they arrive.
function startCommand(stage, implementation, args, name) {
  const child = spawn(process.execPath, [implementation.command, ...args.map(String)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let rest = '';
  child.stdout.on('data', (data) => {
    const lines = (rest + data).split('\n');
    rest = lines.pop();
    for (const line of lines) stage.log(name, 'prints', line);
  });
  const ended = new Promise((resolve) => {
    child.on('close', (code, signal) => {
      stage.log(name, 'ends', code, signal);
      resolve(code);
    });
  });
  return { kill: (signal = 'SIGKILL') => child.kill(signal), ended };
}

module.exports = { runProgram, startCommand };
