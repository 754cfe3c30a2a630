/** The stages in a row, the legend of their layers, and which of them is slow. */

import { drawLegend } from "./pattern.js";
import { Stage } from "./stage.js";
import { write } from "./template.js";
import { counted } from "./units.js";

const SLOW_TIMES = 1.6;
const SLOW_SECONDS = 1e-3;

export class Pipeline {
  #pattern = null;

  constructor(count) {
    this.stages = Array.from({ length: count }, (_, index) => new Stage(index, count));
    const element = document.getElementById("stages");
    element.replaceChildren(...this.stages.map((stage) => stage.root));
  }

  /** Shows the stages of a ClusterView. */
  show(views) {
    const pattern = views.map((view) => view.pattern).join("");
    if (this.#pattern !== pattern) drawLegend(document.getElementById("kinds"), pattern);
    this.#pattern = pattern;
    const scales = {
      p95: Math.max(...views.map((view) => view.decode_p95), 1e-6),
      memory: Math.max(...views.map((view) => Math.max(view.peak_bytes, view.memory_bytes)), 1),
    };
    const slow = views.map((_, index) => slowness(views, index));
    views.forEach((view, index) => this.stages[index].show(view, scales, slow[index]));
    write(document.getElementById("stage-count"), summary(views, slow.filter(Boolean).length));
  }
}

/** How many times the median of the other stages' p50 the one of this stage is; 0 if that is nothing to speak of. */
export function slowness(views, index) {
  const median = middle(views.filter((view, other) => other !== index && known(view)).map((view) => view.decode_p50));
  const own = views[index].decode_p50;
  if (!known(views[index]) || median === null) return 0;
  return own > SLOW_TIMES * median && own - median > SLOW_SECONDS ? own / median : 0;
}

/** Seconds of a token's way through all stages and hops, from medians; null unless all are known. */
export function stepSeconds(views) {
  if (!views.every(known)) return null;
  return views.reduce((sum, view) => sum + view.decode_p50 + view.hop_seconds, 0);
}

function summary(views, slow) {
  const ready = views.filter((view) => view.state === "ready").length;
  const parts = ready === views.length ? [] : [`${ready} ready`];
  return [counted(views.length, "stage"), ...parts, ...(slow ? [`${slow} slow`] : [])].join(", ");
}

function known(view) {
  return view.state === "ready" && view.decode_p50 > 0;
}

function middle(values) {
  if (values.length === 0) return null;
  const sorted = values.toSorted((one, other) => one - other);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
