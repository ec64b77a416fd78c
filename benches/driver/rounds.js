'use strict';

// Rules for the measurement of all rivals: their order, and additional figures.

const fs = require('node:fs');
const { Broker, runLoad } = require('./processes');

const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * Starts a new broker for each measurement. Rivals alternate, and each round starts with another one. `cpus`
 * is 'pinned' or 'shared' and is part of each sample. A rival with several processes has a function that
 * starts them.
 */
async function eachRound(rivals, rounds, cpus, measure) {
  const samples = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let turn = 0; turn < rivals.length; turn += 1) {
      const rival = rivals[(round + turn) % rivals.length];
      const broker = await (rival.System ?? Broker).start(rival, cpus);
      try {
        samples.push({ rival: rival.name, cpus, ...(await measure(broker)) });
        await broker.stop();
      } finally {
        broker.kill();
      }
      process.stderr.write('.');
    }
  }
  // Rounds alternate between rivals, tables list them one after the other.
  const place = (sample) => rivals.findIndex(({ name }) => name === sample.rival);
  return samples.sort((a, b) => place(a) - place(b));
}

/** Seconds that the processors have worked since boot, and seconds stolen by the host. */
function processorTime() {
  const line = fs.readFileSync('/proc/stat', 'utf8').split('\n', 1)[0];
  const [user, nice, system, , , irq, softirq, stolen] = line.split(/\s+/).slice(1).map(Number);
  return { busy: (user + nice + system + irq + softirq) / 100, stolen: stolen / 100 };
}

/**
 * Runs a load twice: once to warm up, and once with the processor time of the broker and of other programs.
 */
async function measured(mode, broker, options, { settings }) {
  await runLoad(mode, broker, { ...options, seconds: settings.warmup_seconds });
  const spent = () => broker.parts.map((part) => part.cpuSeconds());
  const [before, machine] = [spent(), processorTime()];
  const result = await runLoad(mode, broker, { ...options, seconds: settings.seconds });
  const [after, { busy, stolen }] = [spent(), processorTime()];
  const each = after.map((seconds, part) => seconds - before[part]);
  const cpu = sum(each);
  // Processor time of other programs makes a figure less reliable.
  const others = busy - machine.busy - cpu - result.cpu_seconds + stolen - machine.stolen;
  return {
    ...result,
    cpu_us_per_message: (cpu * 1e6) / result.messages,
    cpu_us_of_parts: each.map((seconds) => (seconds * 1e6) / result.messages),
    others: Math.max(0, others / result.seconds),
  };
}

/** The rivals in targets. */
const COMPARED = ['wsmsgbroker', 'nats', 'bun', 'ws8'];

/** The rivals of a measurement, unless others were requested. */
function among(rivals, run, ...names) {
  return run.names ? rivals : rivals.filter(({ name }) => names.includes(name));
}

module.exports = { COMPARED, among, eachRound, measured };
