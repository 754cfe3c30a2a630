/** The table of requests in flight. */

import { list, mark, write } from "./template.js";
import { counted, digits, duration } from "./units.js";

const MOST = 100;

/** Shows the requests of a ClusterView, which names the oldest hundred; `open` is how many there are. */
export function showRequests(requests, open) {
  const body = document.getElementById("requests");
  while (body.children.length > requests.length) body.lastElementChild.remove();
  while (body.children.length < requests.length) body.append(document.createElement("tr"));
  requests.forEach((request, index) => {
    const row = body.children[index];
    const cells = [request.id, request.state, digits(request.prompt_tokens), digits(request.generated_tokens),
      duration(request.age_seconds)];
    list(row, "td", cells);
    mark(row, "data-state", request.state);
    mark(row.firstElementChild, "title", request.id);
  });
  document.getElementById("no-requests").hidden = requests.length > 0;
  body.closest("table").hidden = requests.length === 0;
  const all = requests.length < MOST;
  const count = all ? counted(requests.length, "request") : `the oldest ${MOST} of ${digits(open)} requests`;
  write(document.getElementById("requests-count"), requests.length ? count : "");
}
