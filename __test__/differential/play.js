'use strict';

// Plays one scenario on one implementation and returns its recording. A scenario marked `isolated` (one
// that makes 1.7.2 throw where nobody can catch, or that other tests would disturb) is played in a process
// of its own.

const { fork } = require('node:child_process');
const path = require('node:path');
const { Stage } = require('./stage');

// Generous, because a loaded machine is no difference; a scenario takes some 50 ms.
const SCENARIO_TIMEOUT_MS = 30_000;

async function play(scenario, implementation) {
  if (scenario.isolated) return playInChild(scenario, implementation);
  return playHere(scenario, implementation);
}

async function playHere(scenario, implementation) {
  const stage = new Stage(implementation);
  let timer;
  const late = new Promise((_, reject) => {
    const say = () => `${implementation.name} did not finish "${scenario.title}"; ${stage.stuck()}`;
    timer = setTimeout(() => reject(new Error(say())), SCENARIO_TIMEOUT_MS);
  });
  try {
    await Promise.race([scenario.play(stage).then(() => stage.settle()), late]);
    // As isolated scenarios arrive: without anything that JSON would drop.
    return JSON.parse(JSON.stringify(stage.recording()));
  } finally {
    clearTimeout(timer);
    stage.end();
  }
}

function playInChild(scenario, implementation) {
  const child = fork(path.join(__dirname, 'isolated.js'), [scenario.title], {
    env: { ...process.env, WSMB_PLAY: implementation.name },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let complaints = '';
  child.stderr.on('data', (data) => {
    complaints += data;
  });
  return new Promise((resolve, reject) => {
    child.on('message', ({ recording, error }) => {
      if (error) reject(new Error(error));
      else resolve(recording);
    });
    child.on('close', (code, signal) => {
      const ended = `ended with ${code ?? signal} before it had recorded`;
      reject(new Error(`${implementation.name} ${ended} "${scenario.title}": ${complaints}`));
    });
  });
}

module.exports = { play, playHere, SCENARIO_TIMEOUT_MS };
