/** Which minutes the charts show and at which moment their values are read: by pointer or with the slider. */

import { mark, write } from "./template.js";
import { duration } from "./units.js";

export class Timeline {
  /** Calls `changed()` after the reader has chosen another range or moment. */
  constructor(changed) {
    this.range = 300;
    this.back = 0;
    this.slider = document.getElementById("cursor");
    this.output = document.getElementById("cursor-time");
    document.getElementById("ranges").addEventListener("change", (event) => {
      this.range = Number(event.target.value);
      this.slider.min = -this.range;
      this.back = -this.slider.value;
      changed();
    });
    this.slider.addEventListener("input", () => {
      this.back = -this.slider.value;
      changed();
    });
    this.changed = changed;
  }

  /** The pointer is at `share` of a chart's width; the slider stays, and holds again when the pointer leaves. */
  point(share) {
    this.back = this.range * (1 - share);
    this.changed();
  }

  leave() {
    this.back = -this.slider.value;
    this.changed();
  }

  /** What the charts draw of `history`: rows, range, and the row at the cursor. */
  view(history, now, wall) {
    const live = this.back < 1;
    const moment = now - this.back;
    const first = history.seconds.findIndex((second) => second >= now - this.range);
    const index = history.nearest(moment, live ? 5 : 3);
    const clock = new Date(wall - this.back * 1000).toLocaleTimeString();
    const words = live ? "now" : `${duration(this.back)} ago, ${clock}`;
    write(this.output, words);
    mark(this.slider, "aria-valuetext", words);
    const { seconds } = history;
    return { seconds, first: first < 0 ? seconds.length : first, range: this.range, now, index, live, words };
  }
}
