/** The top of the page: the cluster's state, whether the numbers are live, what is wrong, and what is read aloud. */

import { showBadge } from "./stage.js";
import { stepSeconds } from "./pipeline.js";
import { mark, write } from "./template.js";
import { counted, digits, duration, latency, rate } from "./units.js";

const STALE_MS = 3500;

export class Header {
  #states = [];
  #answered = 0;
  #clock = "never";
  #feed = "waiting";

  constructor() {
    setInterval(() => this.#watch(), 500);
  }

  /** Fresh numbers have come. */
  live(cluster) {
    this.#answered = performance.now();
    this.#clock = new Date().toLocaleTimeString();
    if (this.#feed === "lost") this.#announce("The connection is back.");
    this.#show("live", "live");
    notice("trouble", "");
    showBadge(element("state"), cluster.state === "degraded" ? "down" : cluster.state, cluster.state);
    notice("problem", cluster.state === "ready" ? "" : cluster.reason);
    write(element("model"), cluster.model);
    write(element("epoch"), cluster.epoch);
    write(element("uptime"), duration(cluster.uptime_seconds));
    write(element("version"), cluster.version);
    write(element("generated"), rate(cluster.tokens_per_second));
    write(element("prompt"), rate(cluster.prefill_tokens_per_second));
    for (const name of ["running", "waiting"]) {
      write(element(name), digits(cluster[name]));
      write(element(`${name}-unit`), cluster[name] === 1 ? "request" : "requests");
    }
    write(element("step"), latency(stepSeconds(cluster.stages)));
    this.#hear(cluster.stages);
    const down = cluster.stages.filter((stage) => stage.state === "down").map((stage) => stage.stage);
    const running = `${cluster.state}, ${rate(cluster.tokens_per_second)} tok/s`;
    document.title = `${down.length ? `stage ${down.join(", ")} down` : running} \u00b7 Stageline`;
  }

  /** The coordinator gave no answer; the next attempt comes after `seconds`. */
  lost(reason, seconds) {
    const again = `Next attempt in ${duration(seconds)}.`;
    notice("trouble", `The state cannot be read: ${reason}. What is shown is out of date. ${again}`);
    if (this.#feed !== "lost") this.#announce("The connection to the coordinator is lost.");
    this.#show("lost", "no connection");
    document.title = "no connection \u00b7 Stageline";
  }

  paused() {
    notice("trouble", "");
    this.#show("paused", `paused, numbers of ${this.#clock}`);
  }

  locked() {
    notice("problem", "");
    notice("trouble", "");
    this.#show("locked", "locked");
    document.title = "API key needed \u00b7 Stageline";
  }

  /** Numbers that nobody has confirmed for a while are not live, whatever the reason. */
  #watch() {
    const age = performance.now() - this.#answered;
    if (this.#feed === "live" && age > STALE_MS) this.#show("stale", "waiting for an answer");
  }

  #show(feed, text) {
    this.#feed = feed;
    mark(document.body, "data-feed", feed);
    mark(element("feed"), "data-feed", feed);
    if (feed !== "live" && feed !== "paused") showBadge(element("state"), "unknown");
    write(element("feed-text"), text);
  }

  /** Says aloud which stages have changed their state. */
  #hear(stages) {
    const before = this.#states;
    this.#states = stages.map((stage) => `${stage.state} ${stage.restarts}`);
    if (before.length === 0) return;
    const changed = stages.filter((_, index) => this.#states[index] !== before[index]);
    if (changed.length === 0) return;
    const said = changed.map(({ stage, state, detail, restarts }) => {
      const times = restarts ? `, ${counted(restarts, "restart")} so far` : "";
      return `Stage ${stage} is ${state}${detail ? `: ${detail}` : ""}${times}.`;
    });
    this.#announce(said.join(" "));
  }

  #announce(text) {
    write(element("announcement"), text);
  }
}

function notice(id, text) {
  write(element(id), text);
  element(id).hidden = !text;
}

function element(id) {
  return document.getElementById(id);
}
