/** The page: what the feed brings goes to the header, the pipeline, the charts and the table. */

import { Charts } from "./charts.js";
import { Feed } from "./feed.js";
import { Header } from "./header.js";
import { History } from "./history.js";
import { Pipeline } from "./pipeline.js";
import { showRequests } from "./requests.js";
import { Timeline } from "./timeline.js";
import { offerTrace } from "./trace.js";
import { showValues } from "./values.js";

const main = document.getElementById("main");
const form = document.getElementById("key-form");
const details = document.getElementById("values");
const header = new Header();
const timeline = new Timeline(draw);
const feed = new Feed({ answered, failed, refused });
let [history, pipeline, charts, state] = [null, null, null, null];
let view = null;
let answeredAt = 0;

function answered(answer, fresh) {
  const stages = answer.cluster.stages;
  if (fresh || stages.length !== history.stages.length) build(stages.length);
  state = answer;
  answeredAt = Date.now();
  history.append(answer.history);
  main.hidden = false;
  form.hidden = true;
  header.live(answer.cluster);
  pipeline.show(stages);
  showRequests(answer.cluster.requests, answer.cluster.running + answer.cluster.waiting);
  draw();
}

function build(stages) {
  history = new History(stages);
  pipeline = new Pipeline(stages);
  charts = new Charts(stages, timeline);
}

function draw() {
  if (state === null) return;
  view = timeline.view(history, state.now, answeredAt);
  charts.draw(history, view);
}

function failed(reason, seconds) {
  header.lost(reason, seconds);
}

function refused(given) {
  main.hidden = true;
  form.hidden = false;
  header.locked();
  document.getElementById("key-refused").textContent = given ? "The cluster does not accept this key." : "";
  document.getElementById("key").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key");
  feed.unlock(field.value.trim());
  field.value = "";
});
document.getElementById("pause").addEventListener("click", (event) => {
  const paused = event.currentTarget.getAttribute("aria-pressed") !== "true";
  event.currentTarget.setAttribute("aria-pressed", paused);
  event.currentTarget.textContent = paused ? "Go on" : "Pause";
  if (paused) header.paused();
  feed.paused = paused;
});
offerTrace(document.getElementById("trace"), feed);
details.addEventListener("toggle", () => details.open && view && showValues(history, view));
new ResizeObserver(draw).observe(main);
feed.start();
