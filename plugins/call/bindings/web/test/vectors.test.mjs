/** The vectors of docs/protocol/vectors, over streams of bytes in memory. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { read } from "../dist/envelope.js";
import { FrameDecoder, frame } from "../dist/frame.js";
import { CallError, connect } from "../dist/index.js";

function vectors(file, atLeast) {
  const at = new URL(`../../../../../docs/protocol/vectors/${file}`, import.meta.url);
  const all = JSON.parse(readFileSync(at)).vectors;
  assert.ok(all.length >= atLeast, file);
  return all;
}

const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const encode = (text) => new TextEncoder().encode(text);

/** What the client makes of an envelope, in the words of the vectors. */
function meaning(content) {
  let event;
  try {
    event = read(content);
  } catch (error) {
    assert.equal(error.name, "EnvelopeError");
    return { event: "reset", code: 2 };
  }
  const { type, id } = event;
  if (type === "unknown") return { event: "ignored" };
  if (type === "error") {
    const { code, message, retryable, details } = event.error;
    return { event: type, id, code, message, retryable, ...(details !== undefined && { details }) };
  }
  if (type !== "requested") {
    return JSON.parse(JSON.stringify({ event: type, ...event, type: undefined }));
  }
  if (event.request instanceof CallError) return { event: "refused", id, code: event.request.code };
  const { operationId: operation, ...more } = event.request;
  return { event: type, id, operation, ...more };
}

test("envelopes mean what the vectors say", () => {
  for (const { name, text, hex, means } of vectors("envelopes.json", 50)) {
    const got = meaning(text === undefined ? bytes(hex) : encode(text));
    // A page has no use for tokens and end users, nor for a stream's final mark, and
    // what it stops it stops whole.
    const { auth_token, forwarded_for, terminal, policy, ...expected } = means;
    if (!("message" in expected)) delete got.message;
    assert.deepEqual(got, expected, name);
  }
});

test("frames hold what the vectors say", () => {
  for (const { name, hex, limit, frames, end } of vectors("frames.json", 12)) {
    const data = bytes(hex);
    for (const step of [data.length || 1, 1]) {
      const decoder = new FrameDecoder(limit);
      const got = [];
      let ended = "clean";
      try {
        for (let at = 0; at < data.length; at += step) {
          decoder.push(data.subarray(at, at + step));
          for (let next = decoder.next(); next; next = decoder.next()) {
            got.push(new TextDecoder().decode(next));
          }
        }
        decoder.finish();
      } catch (error) {
        assert.equal(error.name, "FrameError");
        ended = "BAD_FRAME";
      }
      assert.deepEqual([got, ended], [frames, end], `${name}, ${step} bytes at a time`);
    }
  }
});

/** The vector's end of a stream. */
class Wire {
  #decoder = new FrameDecoder();
  constructor({ readable, writable }) {
    this.reader = readable.getReader();
    this.writer = writable.getWriter();
    this.writer.closed.catch(() => {});
  }
  send(envelope) {
    return this.writer.write(frame(encode(JSON.stringify(envelope))));
  }
  /** The next envelope; `undefined` at a clean end. */
  async next() {
    for (;;) {
      const content = this.#decoder.next();
      if (content) return JSON.parse(new TextDecoder().decode(content));
      const { value, done } = await this.reader.read();
      if (done) return undefined;
      this.#decoder.push(value);
    }
  }
}

/** Both ends of a stream in memory. */
function streams() {
  const room = { highWaterMark: 64 };
  const [up, down] = [1, 2].map(() => new TransformStream({}, room, room));
  return [
    { readable: down.readable, writable: up.writable },
    { readable: up.readable, writable: down.writable },
  ];
}

globalThis.WebTransportError = class extends Error {
  constructor(message, { streamErrorCode }) {
    super(message);
    this.streamErrorCode = streamErrorCode;
  }
};

/** A session in memory, of which the test plays the node's side. */
class Session {
  ready = Promise.resolve();
  #opened = new TransformStream({}, { highWaterMark: 9 });
  #incoming = new TransformStream({}, { highWaterMark: 9 });
  #openedWriter = this.#opened.writable.getWriter();
  #openedReader = this.#opened.readable.getReader();
  #incomingWriter = this.#incoming.writable.getWriter();
  incomingBidirectionalStreams = this.#incoming.readable;
  constructor() {
    Session.last = this;
    this.closed = new Promise((resolve) => (this.close = resolve));
  }
  async createBidirectionalStream() {
    const [near, far] = streams();
    void this.#openedWriter.write(far);
    return near;
  }
  async accept() {
    return new Wire((await this.#openedReader.read()).value);
  }
  open() {
    const [near, far] = streams();
    void this.#incomingWriter.write(near);
    return new Wire(far);
  }
}
globalThis.WebTransport = Session;

/** Plays a vector's steps. */
class Script {
  #wires = new Map();
  #id;
  constructor(session) {
    this.session = session;
  }
  #named({ id, ...more }) {
    return { ...more, id: id === "$id" ? this.#id : id };
  }
  /** The next stream on which the vector's operation is asked for. */
  async #accept(n) {
    for (;;) {
      const wire = await this.session.accept();
      const got = await wire.next();
      if (got.payload.operationId !== "/services/schema") {
        this.#wires.set(n, wire);
        return got;
      }
      const payload = { output: { op_type: "subscription" } };
      await wire.send({ type: "call.responded", id: got.id, payload });
    }
  }
  async step({ stream, ...step }) {
    if ("expect" in step) {
      const got = await (this.#wires.get(stream)?.next() ?? this.#accept(stream));
      if (step.expect.id === "$id") this.#id ??= got.id;
      const { type, id, payload } = this.#named(step.expect);
      const some = Object.fromEntries(Object.keys(payload).map((key) => [key, got.payload[key]]));
      assert.deepEqual({ type: got.type, id: got.id, payload: some }, { type, id, payload });
      return;
    }
    if (!this.#wires.has(stream)) this.#wires.set(stream, this.session.open());
    const wire = this.#wires.get(stream);
    if ("send" in step) await wire.send(this.#named(step.send));
    else if ("bytes" in step) await wire.writer.write(bytes(step.bytes));
    else if ("finish" in step) await wire.writer.close();
    else if ("break" in step) {
      await wire.writer.abort(new WebTransportError("", { streamErrorCode: step.break }));
    } else if ("reset" in step) {
      await assert.rejects(wire.next(), { streamErrorCode: step.reset });
    } else {
      assert.deepEqual(step, { end: true });
      assert.equal(await wire.next(), undefined);
    }
  }
}

const operations = {
  "t/echo": (input) => input,
  "t/never": () => new Promise(() => {}),
  "t/fail": () => {
    throw new CallError("LOCKED", "held", { retryable: true });
  },
  "t/count": async function* (to) {
    for (let n = 0; n < to; n++) yield n;
  },
  "t/break": async function* () {
    yield null;
    throw new CallError("INTERNAL", "broke");
  },
};

async function connected() {
  const client = await connect("https://node.example", { transport: "webtransport", operations });
  return [client, new Script(Session.last)];
}

for (const { name, steps } of vectors("responder.json", 15)) {
  test(`responder: ${name}`, { timeout: 30_000 }, async () => {
    const [client, script] = await connected();
    for (const step of steps) await script.step(step);
    await client.close();
  });
}

async function told(client, { call, subscribe }) {
  const items = [];
  try {
    if (call) return { output: await client.call(call.operation, call.input) };
    for await (const item of client.subscribe(subscribe.operation, subscribe.input)) items.push(item);
    return { items };
  } catch (error) {
    return { ...(subscribe && { items }), error };
  }
}

for (const vector of vectors("caller.json", 15)) {
  test(`caller: ${vector.name}`, { timeout: 30_000 }, async () => {
    const [client, script] = await connected();
    const telling = told(client, vector);
    for (const step of vector.steps) await script.step(step);
    const { error, ...got } = await telling;
    const { error: expected, ...result } = vector.result;
    assert.deepEqual(got, result);
    assert.equal(error === undefined, expected === undefined, String(error));
    for (const key in expected) assert.deepEqual(error[key], expected[key]);
    await client.close();
  });
}
