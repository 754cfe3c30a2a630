/** Asks the coordinator for its state every second while the page is seen; rests longer after each failure. */

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const LONGEST_MS = 15000;
const KEY = "stageline-api-key";

export class Feed {
  #timer = 0;
  #asking = null;
  #failures = 0;
  #since = null;
  #uptime = 0;
  #key = sessionStorage.getItem(KEY);
  #paused = false;

  /**
   * Callbacks: `answered(state, fresh)`, where fresh means that the history starts anew; `failed(reason, seconds)`,
   * seconds until the next attempt; `refused(given)`: an API key is needed, and whether one was given.
   */
  constructor({ answered, failed, refused }) {
    this.answered = answered;
    this.failed = failed;
    this.refused = refused;
    document.addEventListener("visibilitychange", () => this.#resume());
    window.addEventListener("online", () => this.#resume());
  }

  start() {
    this.#resume();
  }

  /** A key to present from now on; one that no header can carry is refused at once. */
  unlock(key) {
    if (!/^[\x21-\x7e ]+$/.test(key)) return this.refused(true);
    this.#key = key;
    sessionStorage.setItem(KEY, key);
    return this.#resume();
  }

  /** Asks the coordinator for a path of its own, with the key if there is one. */
  request(path, options = {}) {
    const headers = this.#key ? { authorization: `Bearer ${this.#key}` } : {};
    return fetch(path, { ...options, headers });
  }

  set paused(paused) {
    this.#paused = paused;
    this.#resume();
  }

  /** Asks now if anybody looks, else stops asking. */
  #resume() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    if (!document.hidden && !this.#paused) this.#ask();
  }

  async #ask() {
    const asking = new AbortController();
    this.#asking = asking;
    const timeout = setTimeout(() => asking.abort(), PATIENCE_MS);
    let state = null;
    try {
      const query = this.#since === null ? "" : `?since=${this.#since}`;
      const response = await this.request(`dashboard/state${query}`, { cache: "no-store", signal: asking.signal });
      if (response.status === 401) this.#lock();
      else if (!response.ok) throw new Error(await complaint(response));
      else state = await response.json();
    } catch (error) {
      if (this.#asking === asking && !document.hidden && !this.#paused) this.#fail(error);
    } finally {
      clearTimeout(timeout);
    }
    if (state !== null && this.#asking === asking) this.#take(state);
  }

  #take(state) {
    this.#failures = 0;
    // the clock or the uptime went back: another coordinator answers, whose history is not ours
    const fresh = this.#since === null || state.now < this.#since || state.cluster.uptime_seconds < this.#uptime;
    this.#uptime = state.cluster.uptime_seconds;
    if (fresh && this.#since !== null) {
      this.#since = null;
      this.#timer = setTimeout(() => this.#ask(), 0);
      return;
    }
    this.#since = state.now;
    this.#timer = setTimeout(() => this.#ask(), EVERY_MS);
    this.answered(state, fresh);
  }

  #lock() {
    const given = this.#key !== null;
    this.#key = null;
    sessionStorage.removeItem(KEY);
    this.refused(given);
  }

  #fail(error) {
    this.#failures += 1;
    const rest = Math.min(EVERY_MS * 2 ** (this.#failures - 1), LONGEST_MS);
    this.#timer = setTimeout(() => this.#ask(), rest);
    this.failed(reason(error), rest / 1000);
  }
}

async function complaint(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `the coordinator answered with status ${response.status}`;
}

function reason(error) {
  if (error.name === "AbortError") return `no answer within ${PATIENCE_MS / 1000} s`;
  return error instanceof TypeError ? "the coordinator cannot be reached" : error.message;
}
