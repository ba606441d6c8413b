// Server-sent events, read from text as it comes: `EventSource` sends no token.

/** Puts events together from pieces of a stream. */
export class Events {
  #rest = "";
  #event = "";
  #data = [];

  /** The events that are complete with this piece. */
  push(piece) {
    this.#rest += piece;
    const found = [];
    for (;;) {
      const end = this.#rest.search(/\r\n|\n|\r/);
      // A line's end may be the first half of `\r\n`.
      if (end < 0 || (this.#rest[end] === "\r" && end + 1 === this.#rest.length)) return found;
      const line = this.#rest.slice(0, end);
      this.#rest = this.#rest.slice(end + (this.#rest.startsWith("\r\n", end) ? 2 : 1));
      const event = this.#line(line);
      if (event) found.push(event);
    }
  }

  #line(line) {
    if (line === "") {
      const event = { event: this.#event || "message", data: this.#data.join("\n") };
      const complete = this.#data.length > 0;
      this.#event = "";
      this.#data = [];
      return complete ? event : null;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    if (field === "data") this.#data.push(value);
    return null;
  }
}
