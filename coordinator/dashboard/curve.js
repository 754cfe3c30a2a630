/** Columns of numbers as the outline of a line and of an area, broken where numbers are missing. */

const LONGEST_GAP_SECONDS = 7; // samples are 2 s apart

/**
 * {line, area}, as SVG paths: the upper edge `high`, and the area between it and `low` (0 where `low` is empty), from
 * the row `first` on. `x` maps seconds and `y` values onto pixels.
 */
export function outline({ seconds, high, low, first, x, y }) {
  const upper = (row) => `${round(x(seconds[row]))} ${round(y(high[row]))}`;
  const lower = (row) => `${round(x(seconds[row]))} ${round(y(low[row] ?? 0))}`;
  const edges = runs(seconds, high, low, first).map((rows) => ({
    line: `M${rows.map(upper).join("L")}${rows.length === 1 ? "h.01" : ""}`, // a single value is a dot
    area: `M${rows.map(upper).join("L")}L${rows.toReversed().map(lower).join("L")}Z`,
  }));
  return { line: edges.map((edge) => edge.line).join(""), area: edges.map((edge) => edge.area).join("") };
}

/** Pixels with one decimal. */
export function round(pixels) {
  return Math.round(pixels * 10) / 10;
}

/** The rows whose values are known, in runs without a gap. */
function runs(seconds, high, low, first) {
  const found = [];
  let before = -1;
  for (let row = first; row < seconds.length; row += 1) {
    if (high[row] == null || low[row] === null) continue;
    const joins = before >= 0 && before === row - 1 && seconds[row] - seconds[before] <= LONGEST_GAP_SECONDS;
    if (!joins) found.push([]);
    found.at(-1).push(row);
    before = row;
  }
  return found;
}
