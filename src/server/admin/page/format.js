// Formats of the numbers on the page.

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const exact = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const date = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' });

const NONE = '–';

/** A count, such as `1,234` or `1.23M`. */
export function count(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 1e5) return compact.format(value);
  return (value < 10 ? fine : plain).format(value);
}

/** A number of bytes, such as `1.5 MB`. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  let rest = value;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${(rest < 10 && unit > 0 ? fine : plain).format(rest)} ${units[unit]}`;
}

/** A time in seconds, such as `85 µs` or `1.2 s`. */
export function duration(value) {
  if (value === null || value === undefined) return NONE;
  const units = [
    [1, 's'],
    [1e-3, 'ms'],
    [1e-6, 'µs'],
  ];
  const [size, unit] = units.find(([least]) => value >= least) ?? [1e-3, 'ms'];
  const amount = value / size;
  return `${(amount < 10 ? fine : plain).format(amount)} ${unit}`;
}

/** A time in full seconds, such as `3 d 4 h`. */
export function age(seconds) {
  const units = [
    [86400, 'd'],
    [3600, 'h'],
    [60, 'min'],
  ];
  const index = units.findIndex(([size]) => seconds >= size);
  if (index < 0) return `${seconds} s`;
  const [size, unit] = units[index];
  const [next, nextUnit] = units[index + 1] ?? [1, 's'];
  const rest = Math.floor((seconds % size) / next);
  return `${Math.floor(seconds / size)} ${unit}${rest > 0 ? ` ${rest} ${nextUnit}` : ''}`;
}

/** The hour and minute of a time in milliseconds. */
export const hour = (time) => clock.format(time);
/** The time of day of a time in milliseconds. */
export const time = (at) => exact.format(at);
/** The date and hour of a time in milliseconds. */
export const day = (at) => date.format(at);
