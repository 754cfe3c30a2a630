/** One chart over time, drawn as SVG: areas and lines, axes with units, the cursor, and its values in words. */

import { outline, round } from "./curve.js";
import { axis, line } from "./scale.js";
import { copy, mark, write } from "./template.js";

const EDGE = { left: 48, right: 8, top: 8, bottom: 6 };
const TIMES_HEIGHT = 15;
const TIME_STEPS = { 60: 15, 300: 60, 900: 180 };

export class Chart {
  #fields;
  #axes = "";
  #marks = [];

  /**
   * `series`: [{name, look, low, high, line, hatched, of}]. `look` is its class; `high` and `low` take a column each
   * from the data passed to draw; with `low` the area between is filled, or hatched; with `line` the upper edge is
   * drawn; `of` gives the values from the two columns where they are not those of `high`. `format` writes a value,
   * `tick` one at the axis. `height` is in pixels, without the line of times below, left out if `times` is false.
   */
  constructor({ name, series, format, tick = format, height, steps = 3, times = true }) {
    const { root, fields } = copy("chart-template");
    Object.assign(this, { root, name, series, format, tick, steps, times, foot: height - EDGE.bottom });
    this.#fields = fields;
    write(fields.name, name);
    mark(fields.svg, "height", times ? height + TIMES_HEIGHT : height);
    this.#build();
  }

  /** The marks of every series, and beside the chart its swatch, its name and its value at the cursor. */
  #build() {
    this.grid = this.#add("g", "grid");
    this.#marks = this.series.map((each) => ({
      area: each.low && this.#add("path", `area ${each.look}`, each.hatched ? { fill: "url(#hatch)" } : {}),
      line: each.line && this.#add("path", `line ${each.look}`),
      dot: each.line && this.#add("circle", `point ${each.look}`),
    }));
    this.cursor = this.#add("line", "cursor");
    for (const { name, look } of this.series) {
      const item = document.createElement("li");
      item.append(swatch(look), `${name} `, document.createElement("b"));
      this.#fields.readout.append(item);
    }
  }

  /** Calls `at(share)` with the place of the pointer, 0 is the left edge and 1 now; `away()` when it has left. */
  onPoint(at, away) {
    const point = (event) => {
      const box = this.#fields.svg.getBoundingClientRect();
      const share = (event.clientX - box.left - EDGE.left) / (box.width - EDGE.left - EDGE.right);
      at(Math.min(Math.max(share, 0), 1));
    };
    this.#fields.svg.addEventListener("pointermove", point);
    this.#fields.svg.addEventListener("pointerdown", point);
    this.#fields.svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && away());
  }

  /** `view`: {seconds, first, range, now, index, live}; `index` is the row whose values are shown, -1 for none. */
  draw(data, view, ceiling) {
    const width = this.#fields.svg.clientWidth;
    if (width < EDGE.left + EDGE.right + 20) return;
    const { top, levels } = axis(ceiling, this.steps);
    const x = line(view.now - view.range, view.now, EDGE.left, width - EDGE.right);
    const y = line(0, top, this.foot, EDGE.top);
    this.#drawAxes(width, top, levels, view.range, y);
    const columns = this.series.map(({ high, low }) => ({ high: high(data) ?? [], low: low?.(data) ?? [] }));
    columns.forEach((column, index) => {
      const drawn = outline({ ...column, seconds: view.seconds, first: view.first, x, y });
      const marks = this.#marks[index];
      if (marks.line) mark(marks.line, "d", drawn.line);
      if (marks.area) mark(marks.area, "d", drawn.area);
    });
    this.#point(columns, view, x, y);
    this.#describe(columns, view);
  }

  #drawAxes(width, top, levels, range, y) {
    const axes = `${width} ${top} ${range}`;
    if (axes === this.#axes) return;
    this.#axes = axes;
    this.grid.replaceChildren();
    const right = width - EDGE.right;
    for (const level of levels) {
      this.#add("line", level === 0 ? "base" : "", { x1: EDGE.left, x2: right, y1: y(level), y2: y(level) }, this.grid);
      this.#add("text", "level", { x: EDGE.left - 6, y: y(level) + 4 }, this.grid).textContent = this.tick(level);
    }
    if (!this.times) return;
    const step = TIME_STEPS[range] * (width < 300 ? 2 : 1);
    for (let back = 0; back < range; back += step) {
      const at = right - (back / range) * (right - EDGE.left);
      const text = this.#add("text", back === 0 ? "now" : "time", { x: at, y: this.foot + 17 }, this.grid);
      text.textContent = back === 0 ? "now" : back < 60 ? `${back} s` : `${back / 60} min`;
    }
  }

  #point(columns, view, x, y) {
    const shown = view.index >= 0 && !view.live;
    mark(this.cursor, "visibility", shown ? "visible" : "hidden");
    if (shown) {
      const at = round(x(view.seconds[view.index]));
      for (const [name, value] of Object.entries({ x1: at, x2: at, y1: EDGE.top, y2: this.foot })) {
        mark(this.cursor, name, value);
      }
    }
    columns.forEach(({ high }, index) => {
      const { dot } = this.#marks[index];
      const value = view.index < 0 ? null : high[view.index];
      if (!dot) return;
      mark(dot, "visibility", value == null ? "hidden" : "visible");
      if (value == null) return;
      mark(dot, "cx", round(x(view.seconds[view.index])));
      mark(dot, "cy", round(y(value)));
      mark(dot, "r", 3);
    });
  }

  /** The values at the cursor as text beside the chart, and the whole chart as the name of the image. */
  #describe(columns, view) {
    const said = columns.map(({ high, low }, index) => {
      const { name, of } = this.series[index];
      const values = (of ?? ((top) => top))(high, low);
      write(this.#fields.readout.children[index].lastElementChild, this.format(values[view.index]));
      const seen = values.slice(view.first).filter((value) => value != null);
      if (seen.length === 0) return `${name}: no values`;
      const [least, most] = [Math.min(...seen), Math.max(...seen)].map(this.format);
      return `${name}: ${this.format(values[view.index])}, between ${least} and ${most}`;
    });
    const words = `${this.name}, last ${view.range / 60} min, ${view.words}. ${said.join("; ")}`;
    mark(this.#fields.svg, "aria-label", words);
  }

  #add(tag, look, attributes = {}, parent = this.#fields.svg) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    if (look) element.setAttribute("class", look);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }
}

function swatch(look) {
  const element = document.createElement("i");
  element.className = look;
  element.setAttribute("aria-hidden", "true");
  return element;
}
