/** Saves the last steps of all stages as a file, in Chrome's trace format. */

import { write } from "./template.js";

/** Fetches the trace when `button` is pressed; while it comes, and if it does not, the button says so. */
export function offerTrace(button, feed) {
  const name = button.textContent;
  button.addEventListener("click", async () => {
    button.disabled = true;
    write(button, "Fetching\u2026");
    try {
      const response = await feed.request("trace");
      if (!response.ok) throw new Error(`status ${response.status}`);
      save(await response.blob());
      write(button, name);
    } catch {
      write(button, "No trace came: try again");
    } finally {
      button.disabled = false;
    }
  });
}

function save(blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `stageline-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}
