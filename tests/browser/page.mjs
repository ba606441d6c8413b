// What the page does, for the tests that say so.

import { CallError, connect } from "/call/index.js";

let node;
let ongoing;

/** An error as others can see it. */
function told(error) {
  const { name, code, message, retryable, details } = error;
  return { name, call: error instanceof CallError, code, message, retryable, details };
}

const outcome = (promise) => promise.then((output) => ({ output }), (error) => ({ error: told(error) }));

/** Operations that the page serves. */
const operations = {
  "page/title": () => document.title,
  "page/fail": () => {
    throw new CallError("PAGE_BUSY", "later", { retryable: true, details: { in_ms: 5 } });
  },
  "page/wait": (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  "page/count": async function* (to) {
    try {
      for (let n = 0; n < to; n++) yield n;
    } finally {
      globalThis.counted = true;
    }
  },
};

/** Connects, and says by what; or why not. */
export async function open({ url, hashes, ...options }) {
  const serverCertificateHashes = hashes?.map((value) => ({
    algorithm: "sha-256",
    value: Uint8Array.from(value),
  }));
  const connected = connect(url ?? location.origin, {
    ...options,
    operations,
    ...(serverCertificateHashes && { serverCertificateHashes }),
  });
  return outcome(connected.then((connection) => (node = connection).transport));
}

export const call = ([operation, input, options]) => outcome(node.call(operation, input, options));

export async function batch(calls) {
  const results = await node.batch(calls);
  return results.map(({ value, reason }) => (reason ? { error: told(reason) } : { output: value }));
}

/** The first items of a subscription, which is left then. */
export async function take([operation, input, number]) {
  const items = [];
  for await (const item of node.subscribe(operation, input)) {
    items.push(item);
    if (items.length === number) break;
  }
  return items;
}

/** Begins what `give_up` ends. */
export function begin([operation, input, subscription]) {
  const controller = new AbortController();
  const { signal } = controller;
  const items = subscription ? node.subscribe(operation, input, { signal }) : undefined;
  const going = items ? items.next() : node.call(operation, input, { signal });
  ongoing = { controller, items, end: outcome(going) };
}

export async function give_up() {
  ongoing.controller.abort();
  return ongoing.end;
}

/** The end of what has begun. */
export const end = () => ongoing.end;

/** What comes of a subscription that nobody reads for a while, and then does. */
export async function ignore([operation, input, during]) {
  const items = node.subscribe(operation, input);
  await new Promise((resolve) => setTimeout(resolve, during));
  let seen = 0;
  try {
    for await (const item of items) if (item !== seen++) return { lost: item };
    return { seen };
  } catch (error) {
    return { seen, error: told(error) };
  }
}

/** Whether a subscription to the page was left. */
export async function counted() {
  while (!globalThis.counted) await new Promise((resolve) => setTimeout(resolve, 10));
}

export const close = (reason) => node.close(reason);

export const closed = () => node.closed;
