/** From values to pixels: round steps for an axis, and the line between two ends. */

/** {top, levels} of an axis from 0 that holds `largest`: some `count` levels at 1, 2 or 5 times a power of ten. */
export function axis(largest, count) {
  const rough = largest / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999);
  const top = (Math.ceil((largest / step) * 2 - 1e-9) / 2) * step; // half a step at most above the last level
  return { top, levels: Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, index) => index * step) };
}

/** The function that maps [from, to] onto [start, end]. */
export function line(from, to, start, end) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

/** The largest known number of the columns in [first, end), at least `least`. */
export function largest(columns, first, end, least) {
  let best = least;
  for (const column of columns) {
    for (let index = first; index < end; index += 1) if (column[index] > best) best = column[index];
  }
  return best;
}
