import assert from "node:assert/strict";
import test from "node:test";

import { EnvelopeError, errorPayload, read, write } from "../dist/envelope.js";
import { CallError } from "../dist/error.js";

const encode = (value) =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));

test("envelopes are written as the protocol has them", () => {
  const written = write("requested", "c-1", { operationId: "/notes/find", input: { tag: "x" } });
  assert.equal(
    new TextDecoder().decode(written),
    '{"type":"call.requested","id":"c-1","payload":{"operationId":"/notes/find","input":{"tag":"x"}}}',
  );
  assert.deepEqual(errorPayload(new CallError("A", "b")), {
    code: "A",
    message: "b",
    retryable: false,
  });
});

test("the design's examples are read", () => {
  const examples = [
    [
      '{"type":"call.requested","id":"c-1","payload":{"operationId":"/notes/find","input":{"tag":"x"},"auth_token":"alk_abc","forwarded_for":[],"timeout_ms":4000}}',
      {
        type: "requested",
        id: "c-1",
        request: { operationId: "/notes/find", input: { tag: "x" }, timeout_ms: 4000 },
      },
    ],
    [
      '{"type":"call.responded","id":"c-1","payload":{"output":{"hits":3}}}',
      { type: "responded", id: "c-1", output: { hits: 3 } },
    ],
    ['{"type":"call.completed","id":"s-4","payload":{}}', { type: "completed", id: "s-4" }],
    [
      '{"type":"call.aborted","id":"s-4","payload":{"policy":"abort-dependents","reason":"tab closed"}}',
      { type: "aborted", id: "s-4", reason: "tab closed" },
    ],
  ];
  for (const [text, event] of examples) assert.deepEqual(read(encode(text)), event);
  const { error } = read(
    encode(
      '{"type":"call.error","id":"c-1","payload":{"code":"NOTE_LOCKED","message":"held by another writer","retryable":true,"details":{"holder":"w2"}}}',
    ),
  );
  const { code, message, retryable, details } = error;
  assert.deepEqual(
    { code, message, retryable, details },
    {
      code: "NOTE_LOCKED",
      message: "held by another writer",
      retryable: true,
      details: { holder: "w2" },
    },
  );
});

test("c05 what is not known is skipped", () => {
  const read1 = read(encode({ type: "call.sung", id: "x", payload: {}, more: 1 }));
  assert.deepEqual(read1, { type: "unknown" });
  const payload = { output: null, terminal: true, more: {} };
  const responded = read(encode({ type: "call.responded", id: "x", payload, more: 1 }));
  assert.deepEqual(responded, { type: "responded", id: "x", output: null });
});

test("c06 what is malformed has an answer where there is an id", () => {
  for (const payload of [{}, { operationId: "/a/b" }, { operationId: 1, input: 1 }, null, 7]) {
    const { request } = read(encode({ type: "call.requested", id: "x", payload }));
    assert.equal(request.code, "INVALID_INPUT");
  }
  for (const type of ["call.responded", "call.error"]) {
    const { error } = read(encode({ type, id: "x", payload: { code: "A" } }));
    assert.equal(error.code, "INTERNAL");
  }
  const bad = ["", "{", "[]", "7", { type: "call.responded" }, { type: "t", id: "" }];
  const more = [{ type: "t", id: "x".repeat(129) }, { id: "x" }, { type: "t", id: 7 }];
  for (const envelope of [...bad, ...more]) {
    assert.throws(() => read(encode(envelope)), EnvelopeError, JSON.stringify(envelope));
  }
  assert.throws(() => read(Uint8Array.from([0xff, 0x22])), EnvelopeError);
});
