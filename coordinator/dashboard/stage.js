/** One stage of the pipeline: a card with its state, layers, shares, latency, memory, and the link to the next one. */

import { drawPattern } from "./pattern.js";
import { copy, list, mark, write } from "./template.js";
import { NONE, counted, digits, duration, latency, percent, size } from "./units.js";

const MARKS = {
  ready: "\u25cf", slow: "\u25b2", silent: "?", unknown: "?", down: "\u2715",
  loading: "\u2193", linking: "\u21c4", starting: "\u25cb",
};
const SILENT_SECONDS = 3;

export class Stage {
  #pattern = null;

  constructor(index, count) {
    const { root, fields } = copy("stage-template");
    Object.assign(this, { root, fields, index, count });
    write(fields.name, `Stage ${index}`);
  }

  /** Shows a StageView. `scales`: the largest p95 and memory of all stages; `slow`: times the others' median, or 0. */
  show(view, scales, slow) {
    const { fields } = this;
    const { state, remark } = condition(view, slow);
    mark(fields.card, "data-state", state);
    showBadge(fields.badge, state);
    write(fields.where, where(view));
    if (this.#pattern !== view.pattern) drawPattern(fields.pattern, view.pattern, view.layers[0]);
    this.#pattern = view.pattern;
    write(fields.detail, remark);
    fields.detail.hidden = remark === "";
    this.#showLoading(view);
    this.#showNumbers(view, scales);
    list(fields.facts, "li", facts(view));
    this.#showLink(view);
  }

  #showLoading(view) {
    const { loading, progress, loaded } = this.fields;
    loading.hidden = view.state !== "loading";
    if (loading.hidden) return;
    mark(progress, "max", view.total_bytes || 1);
    mark(progress, "value", view.total_bytes ? view.loaded_bytes : null);
    mark(progress, "aria-label", `loading of stage ${this.index}`);
    const share = percent(view.loaded_bytes / view.total_bytes);
    const text = `${size(view.loaded_bytes)} of ${size(view.total_bytes)} (${share})`;
    write(loaded, view.total_bytes ? text : "looking for its shards");
  }

  #showNumbers(view, scales) {
    const { fields } = this;
    fields.numbers.hidden = view.state === "down" || view.state === "starting" || view.state === "loading";
    if (fields.numbers.hidden) return;
    write(fields.p50, latency(view.decode_p50 || null));
    write(fields.p95, latency(view.decode_p95 || null));
    fill(fields.latency, [view.decode_p50 / scales.p95], view.decode_p95 / scales.p95);
    const { busy, transfer, wait } = view;
    fill(fields.shares, [busy, transfer, wait]);
    const said = `busy ${percent(busy)}, transfer ${percent(transfer)}, waits ${percent(wait)}`;
    write(fields["share-text"], said);
    const state = view.state_bytes / scales.memory;
    fill(fields.memory, [view.memory_bytes / scales.memory - state, state], view.peak_bytes / scales.memory);
    const memory = `memory ${size(view.memory_bytes)}, state ${size(view.state_bytes)}, peak ${size(view.peak_bytes)}`;
    write(fields["memory-text"], memory);
  }

  #showLink(view) {
    const { link, hop, to } = this.fields;
    const last = this.index === this.count - 1;
    link.hidden = this.count === 1;
    mark(link, "data-state", view.state === "ready" ? "linked" : "broken");
    write(hop, view.state === "ready" ? latency(view.hop_seconds || null) : NONE);
    write(to, last ? "tokens to stage 0" : "hop");
    mark(link, "class", last ? "link back" : "link");
  }
}

/** What is said of a stage: its state, or what is wrong although it counts as ready or starting, and why. */
function condition(view, slow) {
  const { state, restarts, detail, heartbeat_age_seconds: age } = view;
  if (state === "starting" && restarts > 0) return { state: "down", remark: "its process was lost and starts again" };
  if (state !== "ready") return { state, remark: detail };
  if (age > SILENT_SECONDS) return { state: "silent", remark: `no heartbeat for ${duration(age)}: older numbers` };
  if (slow) return { state: "slow", remark: `median step ${slow.toFixed(1)} times the others'` };
  return { state, remark: detail };
}

/** The mark and the word of a state, in a badge. */
export function showBadge(badge, state, word = state) {
  mark(badge, "data-state", state);
  write(badge.firstElementChild, MARKS[state] ?? MARKS.starting);
  write(badge.lastElementChild, word);
}

/** Sets the widths of a bar's parts (shares of one), and the place of its tick. */
function fill(bar, shares, tick) {
  let left = 1;
  shares.forEach((share, index) => {
    const width = Math.min(Math.max(share || 0, 0), left);
    left -= width;
    bar.children[index].style.width = `${(width * 100).toFixed(1)}%`;
  });
  const line = bar.querySelector("u");
  if (line) line.style.left = `${(Math.min(tick || 0, 1) * 100).toFixed(1)}%`;
}

function where({ layers: [first, end], host, backend }) {
  const run = end - first === 1 ? `layer ${first}` : `layers ${first}\u2013${end - 1}`;
  return [run, host, backend].filter(Boolean).join(" \u00b7 ");
}

function facts(view) {
  const restarts = counted(view.restarts, "restart");
  if (view.state !== "ready") return [restarts];
  const layers = view.layers[1] - view.layers[0];
  const lost = view.stale_messages + view.duplicate_messages + view.gaps;
  return [
    `fused ${view.fused_layers} of ${layers}`,
    counted(view.sequences, "sequence"),
    `${digits(view.in_flight)} in flight`,
    counted(view.credits, "credit"),
    ...(lost ? [`${counted(lost, "message")} dropped`] : []),
    restarts,
    `pid ${view.pid}`,
  ];
}
