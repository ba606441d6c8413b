// The gateway's endpoints. The token goes into one header and nowhere else.

import { Events } from "./sse.js";

const ROOT = new URL("../", import.meta.url);

/** An error of a call: `code` is for programs, `message` for people. */
export class Problem extends Error {
  constructor(code, message, details = null, status = 0) {
    super(message);
    this.code = code;
    this.details = details;
    this.status = status;
  }

  /** Whether no answer came at all. */
  get lost() {
    return this.code === "LOST";
  }
}

const lost = () => new Problem("LOST", "The node does not answer.");

async function problem(response) {
  try {
    const document = await response.json();
    return of(document, response.status);
  } catch {
    return new Problem("HTTP", `The node answers with status ${response.status}.`, null, response.status);
  }
}

function of(document, status = document.status) {
  return new Problem(document.code ?? "ERROR", document.detail ?? document.title ?? "", document.details, status);
}

/** Calls as whoever the token stands for. */
export class Client {
  #token;

  /** Hears of it when the token is not accepted any more. */
  onRefused = () => {};

  constructor(token = null) {
    this.#token = token;
  }

  async #fetch(path, options = {}) {
    const headers = { ...options.headers };
    if (this.#token) headers.authorization = `Bearer ${this.#token}`;
    let response;
    try {
      response = await fetch(new URL(path, ROOT), {
        ...options,
        headers,
        cache: "no-store",
        credentials: "same-origin",
        redirect: "error",
        referrerPolicy: "no-referrer",
      });
    } catch (error) {
      throw options.signal?.aborted ? error : lost();
    }
    if (response.ok) return response;
    const refused = await problem(response);
    const challenge = response.headers.get("www-authenticate") ?? "";
    if (response.status === 401 && challenge.includes("invalid_token")) this.onRefused(refused);
    throw refused;
  }

  async #json(path, options) {
    const response = await this.#fetch(path, options);
    try {
      return await response.json();
    } catch {
      throw lost();
    }
  }

  /** The output of one call. */
  call(operation, input = {}, signal = undefined) {
    return this.#json("call", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ operation, input }),
      signal,
    });
  }

  /** The operations that the caller may call and that have all words of `text`. */
  search(text, limit = 1000) {
    return this.#json(`search?${new URLSearchParams({ q: text, limit })}`);
  }

  /** An operation's declaration. */
  schema(name) {
    return this.#json(`schema?${new URLSearchParams({ name })}`);
  }

  /**
   * The items of a subscription. Ends where the node completes it; throws where it
   * fails, or where the stream breaks off.
   */
  async *subscribe(operation, input = {}, signal = undefined) {
    const query = new URLSearchParams({ operation, input: JSON.stringify(input) });
    const response = await this.#fetch(`subscribe?${query}`, {
      headers: { accept: "text/event-stream" },
      signal,
    });
    const events = new Events();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (;;) {
        let chunk;
        try {
          chunk = await reader.read();
        } catch (error) {
          throw signal?.aborted ? error : lost();
        }
        if (chunk.done) throw lost();
        for (const { event, data } of events.push(chunk.value)) {
          const value = JSON.parse(data);
          if (event === "completed") return;
          if (event === "failed") throw of(value);
          yield value;
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }
}
