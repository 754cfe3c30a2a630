/** Numbers for people: three digits, a unit, and a dash for what is not known. */

export const NONE = "\u2013";

/** Three significant digits without an exponent: 0.314, 12.4, 1,240. */
export function digits(value) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const whole = Math.abs(value) >= 99.95;
  return value.toLocaleString("en-US", whole ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
}

/** A rate with one decimal at most: 0, 3.1, 118. */
export function rate(value) {
  return value == null ? NONE : digits(value < 99.95 ? Math.round(value * 10) / 10 : value);
}

/** Seconds as `0.31 ms`, `12.0 ms` or `1.24 s`, as many digits whatever they are, so that columns stand still. */
export function latency(seconds) {
  if (seconds == null) return NONE;
  const [value, unit] = seconds < 0.9995 ? [seconds * 1000, "ms"] : [seconds, "s"];
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
}

/** Seconds at an axis: `20 ms`. */
export function milliseconds(seconds) {
  return `${digits(seconds * 1000)} ms`;
}

/** Bytes in decimal units, as `stageline status` shows them. */
export function size(bytes) {
  if (bytes == null) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  while (value >= 999.5 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${digits(value)} ${units[0]}`;
}

/** A share of one, in whole per cent. */
export function percent(share) {
  return share == null ? NONE : `${Math.round(share * 100)} %`;
}

/** Seconds as a person counts them: `8 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  const shown = parts.slice(first, first + 2).filter(([count]) => count > 0);
  return shown.map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** `2 requests`, `1 request`. */
export function counted(count, noun) {
  return `${digits(count)} ${noun}${count === 1 ? "" : "s"}`;
}
