// The node at work, as `node/events` tells it, and what is remembered of it.

/** How far back charts look, in milliseconds. */
export const WINDOW = 300_000;

const INCIDENTS = 512;
const LONGEST_WAIT = 15_000;

/** Follows a node until it is closed, and takes the subscription up again. */
export class Live {
  last = null;
  samples = [];
  operations = new Map();
  incidents = [];
  /** `starting`, `live` or `lost`. */
  state = "starting";
  /** While lost: when it is tried again, and why it was lost. */
  retryAt = 0;
  error = null;

  #client;
  #listeners = new Set();
  #closing = new AbortController();
  #wake = () => {};

  constructor(client) {
    this.#client = client;
  }

  /** Calls `listener` at every change, until the function that it returns is called. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tries again now. */
  retry() {
    this.#wake();
  }

  close() {
    this.#closing.abort();
    this.#listeners.clear();
    this.#wake();
  }

  async run() {
    const { signal } = this.#closing;
    let wait = 1_000;
    while (!signal.aborted) {
      try {
        for await (const item of this.#client.subscribe("node/events", {}, signal)) {
          wait = 1_000;
          this.state = "live";
          this.#take(item);
          this.#tell();
        }
        this.error = null;
      } catch (error) {
        if (signal.aborted) return;
        this.error = error;
      }
      this.state = "lost";
      this.retryAt = Date.now() + wait;
      this.#tell();
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, wait);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }

  #tell() {
    for (const listener of this.#listeners) listener(this);
  }

  #take(item) {
    // A node that has started anew counts from 1 again.
    if (this.last && item.uptime_seconds < this.last.uptime_seconds) this.incidents = [];
    this.last = item;
    this.remember(item.incidents);
    // The first item of a subscription compares with nothing.
    if (item.seconds === 0) return;
    const oldest = item.unix_ms - WINDOW;
    const { operations, incidents, ...sample } = item;
    this.samples.push(sample);
    while (this.samples[0].unix_ms < oldest) this.samples.shift();
    for (const [name, busy] of Object.entries(operations)) {
      if (!this.operations.has(name)) this.operations.set(name, []);
      this.operations.get(name).push({ unix_ms: item.unix_ms, ...busy });
    }
    for (const [name, series] of this.operations) {
      while (series.length && series[0].unix_ms < oldest) series.shift();
      if (!series.length) this.operations.delete(name);
    }
  }

  /** Adds incidents that are not known yet. */
  remember(incidents) {
    const seen = new Set(this.incidents.map((one) => one.seq));
    const news = incidents.filter((one) => !seen.has(one.seq));
    this.incidents = [...news, ...this.incidents].sort((a, b) => b.seq - a.seq).slice(0, INCIDENTS);
  }

  /** An operation's rates over the window, 0 where it was idle. */
  rates(name) {
    const busy = new Map((this.operations.get(name) ?? []).map((one) => [one.unix_ms, one]));
    return this.samples.map(({ unix_ms }) => [unix_ms, busy.get(unix_ms)?.calls_per_second ?? 0]);
  }

  /** An operation in the last second; nothing where it was idle. */
  now(name) {
    return this.last?.operations[name];
  }
}
