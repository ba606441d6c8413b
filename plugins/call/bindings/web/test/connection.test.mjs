/** Both sides of the protocol, over streams in memory. */

import assert from "node:assert/strict";
import test from "node:test";

import { Connection } from "../dist/connection.js";
import { CallError } from "../dist/error.js";
import { Serving } from "../dist/serving.js";

/** One end of a stream in memory: what is sent waits until the other end takes it. */
class End {
  queue = [];
  reset() {
    this.resetted = true;
    this.other.listener.ended(this.other, true);
  }
  finish() {
    this.finished = true;
  }
  send(envelope) {
    return new Promise((resolve) => {
      this.queue.push([envelope, resolve]);
      this.pump();
    });
  }
  async pump() {
    if (this.pumping) return;
    this.pumping = true;
    while (this.queue.length > 0) {
      const [envelope, resolve] = this.queue.shift();
      await null;
      await this.other.listener.message(this.other, envelope);
      resolve();
    }
    this.pumping = false;
  }
}

function pair(operations, { suspends = true, items = 32, near = {} } = {}) {
  const connections = [new Connection(new Serving(near, 1 << 20), 1 << 20)];
  connections.push(new Connection(new Serving(operations, 1 << 20), 1 << 20));
  const ends = [];
  let end;
  const closed = new Promise((resolve) => (end = resolve));
  connections.forEach((connection, side) => {
    const listeners = [connection, connections[1 - side]];
    connection.attach({
      kind: "webtransport",
      buffer: { items, suspends },
      closed,
      close: (reason) => end({ reason }),
      async open() {
        const [one, other] = [new End(), new End()];
        [one.other, other.other] = [other, one];
        [one.listener, other.listener] = listeners;
        ends.push(one);
        return one;
      },
    });
  });
  return { client: connections[0], server: connections[1], ends };
}

const schema = { "services/schema": ({ name }) => ({ name, op_type: "subscription" }) };

async function* count(to = Infinity) {
  for (let n = 0; n < to; n++) yield n;
}

test("calls are answered with outputs and errors", async () => {
  const { client } = pair({
    "t/echo": (input) => input,
    "t/fail": async () => {
      throw new CallError("LOCKED", "held", { retryable: true, details: { by: "w2" } });
    },
    "t/break": () => {
      throw new Error("a secret");
    },
    "t/large": () => "x".repeat(1 << 20),
    "t/odd": () => 1n,
  });
  assert.deepEqual(await client.call("t/echo", { a: 1 }), { a: 1 });
  assert.deepEqual(await client.call("/t/echo", null), null);
  await assert.rejects(client.call("t/fail", {}), {
    name: "CallError",
    code: "LOCKED",
    message: "held",
    retryable: true,
    details: { by: "w2" },
  });
  await assert.rejects(client.call("t/break", {}), { code: "INTERNAL", message: "the handler failed" });
  await assert.rejects(client.call("t/none", {}), { code: "NOT_FOUND", retryable: false });
  for (const unsendable of ["t/large", "t/odd"]) {
    await assert.rejects(client.call(unsendable, {}), { code: "INTERNAL" });
  }
  await assert.rejects(client.call("t/echo", 1n), TypeError);
  const results = await client.batch([
    { operation: "t/echo", input: 1 },
    { operation: "t/none", input: 2 },
  ]);
  assert.deepEqual([results[0].value, results[1].reason.code], [1, "NOT_FOUND"]);
  await assert.rejects(client.call("t/echo", "x".repeat(1 << 20)), { code: "INVALID_INPUT" });
});

test("c13 either side calls the other", async () => {
  const { server } = pair({}, { near: { "page/title": (_, { operation }) => operation } });
  assert.equal(await server.call("page/title", {}), "page/title");
});

test("c47 c50 a call that is given up stops on the other side", async () => {
  const stopped = [];
  const { client } = pair({
    "t/wait": (which, { signal }) =>
      new Promise(() => signal.addEventListener("abort", () => stopped.push([which, signal.reason.code]))),
  });
  const controller = new AbortController();
  const waiting = client.call("t/wait", "signal", { signal: controller.signal });
  setTimeout(() => controller.abort(new Error("enough")), 10);
  await assert.rejects(waiting, { message: "enough" });
  await assert.rejects(client.call("t/wait", "timeout", { timeout: 20 }), {
    code: "TIMEOUT",
    retryable: true,
  });
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(stopped.map(([which]) => which), ["signal", "timeout"]);
  await assert.rejects(client.call("t/wait", "late", { signal: controller.signal }));
  assert.equal(stopped.length, 2);
});

test("c12 a subscription ends once, and a query is none", async () => {
  const { client, ends } = pair({
    ...schema,
    "t/count": count,
    "t/break": async function* () {
      yield 1;
      throw new CallError("BROKE", "here");
    },
  });
  const seen = [];
  for await (const item of client.subscribe("t/count", 3)) seen.push(item);
  assert.deepEqual(seen.splice(0), [0, 1, 2]);
  await assert.rejects(
    async () => {
      for await (const item of client.subscribe("t/break", {})) seen.push(item);
    },
    { code: "BROKE" },
  );
  assert.deepEqual(seen, [1]);
  assert.ok(ends.some((end) => end.finished), "a stream of its own is finished");
  const { client: other } = pair({ "services/schema": () => ({ op_type: "query" }) });
  await assert.rejects(other.subscribe("t/query", {}).next(), { code: "INVALID_OPERATION_TYPE" });
  const { client: third } = pair({});
  await assert.rejects(third.subscribe("t/none", {}).next(), { code: "NOT_FOUND" });
});

test("c19 a consumer that pauses suspends the producer and loses nothing", async () => {
  let made = 0;
  const { client } = pair({
    ...schema,
    "t/count": async function* () {
      for (; made < 10_000; made++) yield made;
    },
  });
  const items = client.subscribe("t/count", {});
  assert.deepEqual(await items.next(), { value: 0, done: false });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(made < 100, `${made} were made`);
  let expected = 1;
  for await (const item of items) assert.equal(item, expected++);
  assert.equal(expected, 10_000);
});

test("c48 leaving a subscription ends it", async () => {
  for (const how of ["break", "signal", "buffer"]) {
    let ended;
    const over = new Promise((resolve) => (ended = resolve));
    const { client } = pair(
      {
        ...schema,
        "t/count": async function* () {
          try {
            yield* count();
          } finally {
            ended();
          }
        },
      },
      how === "buffer" ? { suspends: false, items: 50 } : {},
    );
    const controller = new AbortController();
    const items = client.subscribe("t/count", {}, { signal: controller.signal });
    if (how === "buffer") {
      await over;
      // What had come is there, and then the reason.
      for (let n = 0; n <= 50; n++) assert.equal((await items.next()).value, n);
      await assert.rejects(items.next(), { code: "RESOURCE_EXHAUSTED" });
      assert.deepEqual(await items.next(), { value: undefined, done: true });
      continue;
    }
    const consume = async () => {
      for await (const item of items) {
        if (item === 5 && how === "break") break;
        if (item === 5) controller.abort(new Error("enough"));
      }
    };
    if (how === "break") await consume();
    else await assert.rejects(consume(), { message: "enough" });
    await over;
  }
});

test("c11 a subscription that is called gives its first item and stops", async () => {
  let ended;
  const over = new Promise((resolve) => (ended = resolve));
  const { client } = pair({
    "t/count": async function* () {
      try {
        yield* count();
      } finally {
        ended();
      }
    },
  });
  assert.equal(await client.call("t/count", {}), 0);
  await over;
});

test("c14 a closed connection fails what waits, and stops what runs", async () => {
  let stopped;
  const over = new Promise((resolve) => (stopped = resolve));
  const { client } = pair({
    "t/wait": (_, { signal }) => new Promise(() => signal.addEventListener("abort", stopped)),
  });
  const waiting = assert.rejects(client.call("t/wait", {}), {
    code: "INTERNAL",
    message: "connection closed",
  });
  await new Promise((resolve) => setTimeout(resolve, 5));
  await client.close("bye");
  await Promise.all([waiting, over]);
  assert.deepEqual(await client.closed, { reason: "bye" });
  await assert.rejects(client.call("t/wait", {}), { message: "connection closed" });
});

test("c16 c20 served calls have deadlines and a limit", async () => {
  const { client } = pair({ "t/wait": () => new Promise(() => {}) });
  const all = Array.from({ length: 256 }, () => client.call("t/wait", {}).catch((error) => error));
  await new Promise((resolve) => setTimeout(resolve, 10));
  await assert.rejects(client.call("t/wait", {}), { code: "RESOURCE_EXHAUSTED", retryable: true });
  await client.close();
  await Promise.all(all);
  const { client: other, ends } = pair({ "t/wait": () => new Promise(() => {}) });
  // As a peer whose own timer does not fire.
  const asked = other.call("t/wait", {});
  await new Promise((resolve) => setTimeout(resolve, 5));
  const payload = { operationId: "/t/wait", input: 0, timeout_ms: 10 };
  const request = JSON.stringify({ type: "call.requested", id: "x", payload });
  const answered = new Promise((resolve) => {
    ends[0].listener = { message: (_, envelope) => resolve(JSON.parse(new TextDecoder().decode(envelope))) };
  });
  await ends[0].send(new TextEncoder().encode(request));
  const { type, payload: error } = await answered;
  assert.deepEqual([type, error.code], ["call.error", "TIMEOUT"]);
  void asked.catch(() => {});
});
