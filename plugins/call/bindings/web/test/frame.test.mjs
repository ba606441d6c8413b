import assert from "node:assert/strict";
import test from "node:test";

import { FrameDecoder, FrameError, frame } from "../dist/frame.js";

const bytes = (...values) => Uint8Array.from(values);
const text = (chunk) => new TextDecoder().decode(chunk);
const encode = (of) => new TextEncoder().encode(of);

test("c01 a frame has a big-endian length before its content", () => {
  assert.deepEqual(frame(encode("{}")), bytes(0, 0, 0, 2, 0x7b, 0x7d));
  assert.deepEqual(frame(new Uint8Array(0x01_02_03)).subarray(0, 4), bytes(0, 1, 2, 3));
});

test("c01 frames survive any splitting of their bytes", () => {
  const contents = ["{}", "x".repeat(300), "é", "y".repeat(70_000)];
  const whole = Buffer.concat(contents.map((content) => frame(encode(content))));
  for (const step of [1, 2, 3, 5, 7, 64, 1000, whole.length]) {
    const decoder = new FrameDecoder();
    const seen = [];
    for (let at = 0; at < whole.length; at += step) {
      decoder.push(whole.subarray(at, at + step));
      for (let next = decoder.next(); next; next = decoder.next()) seen.push(text(next));
    }
    decoder.finish();
    assert.deepEqual(seen, contents, `in pieces of ${step}`);
  }
});

test("c02 empty, oversize and cut frames are errors", () => {
  const decode = (chunk, limit) => {
    const decoder = new FrameDecoder(limit);
    decoder.push(chunk);
    const first = decoder.next();
    decoder.finish();
    return first;
  };
  assert.throws(() => decode(bytes(0, 0, 0, 0)), FrameError);
  assert.throws(() => decode(bytes(0, 0, 0, 5), 4), FrameError);
  assert.throws(() => decode(bytes(0, 0, 0, 5, 1)), FrameError);
  assert.throws(() => decode(bytes(0, 0)), FrameError);
  assert.deepEqual(decode(bytes(0, 0, 0, 4, 1, 2, 3, 4), 4), bytes(1, 2, 3, 4));
});
