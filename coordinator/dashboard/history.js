/** The last fifteen minutes: one column of numbers for each series, one row every two seconds. */

const KEPT_SECONDS = 900;
const NEVER_ZERO = new Set(["p50", "p95", "hop"]);

export class History {
  constructor(stages) {
    this.seconds = [];
    this.columns = {};
    this.stages = Array.from({ length: stages }, () => ({}));
  }

  /** Adds what is newer than the rows held; a time of zero means "not measured yet" and becomes null. */
  append(history) {
    const last = this.seconds.at(-1) ?? -Infinity;
    const start = history.seconds.findIndex((second) => second > last);
    if (start < 0) return;
    const held = this.seconds.length;
    this.seconds.push(...history.seconds.slice(start));
    extend(this.columns, history, start, held);
    this.stages.forEach((columns, stage) => extend(columns, history.stages[stage], start, held));
    this.#forget();
  }

  /** Seconds at this place, and its index: the row nearest to `second`, -1 if there is none within `reach`. */
  nearest(second, reach) {
    let best = -1;
    for (let index = this.seconds.length - 1; index >= 0; index -= 1) {
      const distance = Math.abs(this.seconds[index] - second);
      if (distance <= reach && (best < 0 || distance < Math.abs(this.seconds[best] - second))) best = index;
      if (this.seconds[index] < second - reach) break;
    }
    return best;
  }

  #forget() {
    const oldest = this.seconds.at(-1) - KEPT_SECONDS;
    const count = this.seconds.findIndex((second) => second >= oldest);
    if (count <= 0) return;
    const all = [this.columns, ...this.stages].flatMap((columns) => Object.values(columns));
    for (const column of [this.seconds, ...all]) column.splice(0, count);
  }
}

function extend(columns, given, start, held) {
  for (const [name, values] of Object.entries(given)) {
    if (name === "seconds" || name === "stages") continue;
    columns[name] ??= Array(held).fill(null);
    const known = NEVER_ZERO.has(name) ? (value) => value || null : (value) => value;
    columns[name].push(...values.slice(start).map(known));
  }
}
