/** All charts of the page: tokens and requests of the cluster, latency and shares of each stage. */

import { Chart } from "./chart.js";
import { largest } from "./scale.js";
import { digits, latency, milliseconds, percent, rate } from "./units.js";

const OVERVIEW = [
  { name: "Generated, tokens per second", format: rate, series: [curve("generated", "tokens_per_second")] },
  { name: "Prompt, tokens per second", format: rate, series: [curve("prompt", "prefill_tokens_per_second")] },
  {
    name: "Requests",
    format: digits,
    series: [curve("running", "running"), curve("waiting", "waiting", null)],
  },
];
const LATENCY = [
  { name: "p50", look: "p50", high: (data) => data.p50, line: true },
  { name: "p95", look: "p95", high: (data) => data.p95, low: (data) => data.p50 },
];
const SHARES = ["busy", "transfer", "wait"].map((name, index) => ({
  name,
  look: name,
  hatched: name === "wait",
  high: (data) => data.stacked?.[index],
  low: (data) => (index ? data.stacked?.[index - 1] : []),
  of: (high, low) => high.map((top, row) => (top == null ? null : top - (low[row] ?? 0))),
}));

const HEADROOM = 1.1;
const MANY = 4; // more stages have flat charts, beside their names where there is room

export class Charts {
  /** Charts of a cluster of `stages` stages; `timeline` hears of the pointer. */
  constructor(stages, timeline) {
    const shape = { height: stages <= MANY ? 92 : 46, steps: 2 };
    const last = stages - 1;
    const each = Array.from({ length: stages }, (_, stage) => (
      { ...shape, name: `Stage ${stage}`, times: stage === last }
    ));
    this.overview = OVERVIEW.map((chart) => new Chart({ ...chart, tick: digits, height: 136 }));
    this.latency = each.map((chart) => new Chart({ ...chart, series: LATENCY, format: latency, tick: milliseconds }));
    this.shares = each.map((chart) => new Chart({ ...chart, series: SHARES, format: percent }));
    document.getElementById("by-stage").classList.toggle("many", stages > MANY);
    for (const part of ["overview", "latency", "shares"]) {
      document.getElementById(part).replaceChildren(...this[part].map((chart) => chart.root));
      for (const chart of this[part]) chart.onPoint((share) => timeline.point(share), () => timeline.leave());
    }
  }

  /** Draws `history` as `view` wants it. The stages share their axes, so that a slow one stands out. */
  draw(history, view) {
    const end = view.seconds.length;
    for (const chart of this.overview) {
      const columns = chart.series.map(({ high }) => high(history.columns) ?? []);
      chart.draw(history.columns, view, largest(columns, view.first, end, 1) * HEADROOM);
    }
    const times = history.stages.flatMap(({ p50 = [], p95 = [] }) => [p50, p95]);
    const slowest = largest(times, view.first, end, 1e-3) * HEADROOM;
    history.stages.forEach((columns, stage) => {
      this.latency[stage].draw(columns, view, slowest);
      this.shares[stage].draw({ stacked: stacked(columns) }, view, 1);
    });
  }
}

function curve(name, column, low = () => []) {
  return { name, look: name, high: (data) => data[column], low, line: true };
}

/** The upper edges of busy, transfer and wait, one on top of the other, at most 1. */
function stacked({ busy = [], transfer = [], wait = [] }) {
  const first = busy;
  const second = busy.map((share, row) => (share == null ? null : Math.min(share + transfer[row], 1)));
  return [first, second, second.map((share, row) => (share == null ? null : Math.min(share + wait[row], 1)))];
}
