'use strict';

// What the tables of these measures are made of.

const integer = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

function number(value) {
  if (value >= 100) return integer.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const withSpread = ({ median, min, max }) => `${number(median)} (${number(min)}-${number(max)})`;
const times = ({ ratio }) => (ratio === undefined ? '' : `${number(ratio)}x`);

function markdown(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

module.exports = { integer, markdown, number, times, withSpread };
