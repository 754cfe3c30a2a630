/** The charts' values as a table, for those who read better than they see. */

import { digits, latency, percent, rate } from "./units.js";

const EVERY_SECONDS = 30;

/** Fills the table from `history`: a row every half minute of what the charts show, the newest first. */
export function showValues(history, view) {
  const table = document.querySelector("#values table");
  const columns = [
    ["Generated tok/s", history.columns.tokens_per_second, rate],
    ["Prompt tok/s", history.columns.prefill_tokens_per_second, rate],
    ["Running", history.columns.running, digits],
    ["Waiting", history.columns.waiting, digits],
    ...history.stages.flatMap(({ p50, p95, busy, wait }, stage) => [
      [`Stage ${stage} p50`, p50, latency],
      [`Stage ${stage} p95`, p95, latency],
      [`Stage ${stage} busy`, busy, percent],
      [`Stage ${stage} waits`, wait, percent],
    ]),
  ];
  table.caption.textContent = `Last ${view.range / 60} min, as of ${new Date().toLocaleTimeString()}`;
  table.tHead.replaceChildren(line("th", ["Seconds ago", ...columns.map(([name]) => name)], "col"));
  const rows = [];
  let next = Infinity;
  for (let row = view.seconds.length - 1; row >= view.first; row -= 1) {
    if (view.seconds[row] > next) continue;
    next = view.seconds[row] - EVERY_SECONDS;
    const ago = digits(Math.round(view.now - view.seconds[row]));
    rows.push(line("td", [ago, ...columns.map(([, values, format]) => format(values?.[row]))]));
  }
  table.tBodies[0].replaceChildren(...rows);
}

function line(tag, texts, scope) {
  const row = document.createElement("tr");
  for (const text of texts) {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (scope) cell.scope = scope;
    row.append(cell);
  }
  return row;
}
