'use strict';

// Plays one scenario on one implementation and returns its recording. A scenario marked `isolated` is played
// in a process of its own: in 1.7.2 it throws an exception that cannot be caught, or other tests would
// disturb it.

const { fork } = require('node:child_process');
const path = require('node:path');
const { Stage } = require('./stage');

// Long, because a busy machine is not a difference. A scenario takes about 50 ms.
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
    // Drops what JSON drops, as for isolated scenarios.
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
