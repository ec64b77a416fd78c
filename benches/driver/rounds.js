'use strict';

// The rules by which all rivals are measured: who runs when, and what is noted besides the load's own
// figures.

const fs = require('node:fs');
const { Broker, runLoad } = require('./processes');

const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * A fresh broker for each measurement, rivals by turns, another one first in each round. `cpus` is
 * 'pinned' or 'shared'; each sample notes it. A rival that is more than a broker brings what starts it.
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
  // Rounds alternate, tables do not: one rival below the other, in the order of the list.
  const place = (sample) => rivals.findIndex(({ name }) => name === sample.rival);
  return samples.sort((a, b) => place(a) - place(b));
}

/** Seconds that the processors have spent since boot: working at all, and taken by the host. */
function processorTime() {
  const line = fs.readFileSync('/proc/stat', 'utf8').split('\n', 1)[0];
  const [user, nice, system, , , irq, softirq, stolen] = line.split(/\s+/).slice(1).map(Number);
  return { busy: (user + nice + system + irq + softirq) / 100, stolen: stolen / 100 };
}

/**
 * The same load twice: once to warm up, once with the processor time of the broker and of everybody else
 * around it.
 */
async function measured(mode, broker, options, { settings }) {
  await runLoad(mode, broker, { ...options, seconds: settings.warmup_seconds });
  const spent = () => broker.parts.map((part) => part.cpuSeconds());
  const [before, machine] = [spent(), processorTime()];
  const result = await runLoad(mode, broker, { ...options, seconds: settings.seconds });
  const [after, { busy, stolen }] = [spent(), processorTime()];
  const each = after.map((seconds, part) => seconds - before[part]);
  const cpu = sum(each);
  // What neither broker nor load has used was not ours; it makes a figure worth less.
  const others = busy - machine.busy - cpu - result.cpu_seconds + stolen - machine.stolen;
  return {
    ...result,
    cpu_us_per_message: (cpu * 1e6) / result.messages,
    cpu_us_of_parts: each.map((seconds) => (seconds * 1e6) / result.messages),
    others: Math.max(0, others / result.seconds),
  };
}

/** Those to which the targets compare. */
const COMPARED = ['wsmsgbroker', 'nats', 'bun', 'ws8'];

/** Those that a measurement is about, unless others were asked for. */
function among(rivals, run, ...names) {
  return run.names ? rivals : rivals.filter(({ name }) => names.includes(name));
}

module.exports = { COMPARED, among, eachRound, measured };
