/** Operations that this side serves to the other. */

import { type Requested, errorPayload, write } from "./envelope.js";
import { CallError, code } from "./error.js";
import { type Channel, Reset } from "./transport.js";

/** Calls of the other side that may be in flight at a time. */
const MAX_CALLS = 256;
/** The largest delay that a timer takes, in milliseconds. */
const MAX_DELAY = 2 ** 31 - 1;

/** What a handler knows of its call. */
export interface Context {
  /** Aborts when the other side gives the call up, its time is over, or the connection ends. */
  signal: AbortSignal;
  /** The name that was called. */
  operation: string;
}

/**
 * Answers a call: with a value or a promise of one, or, where the operation is a
 * subscription, with an async iterable of its items. A thrown `CallError` goes to
 * the caller as it is; anything else that is thrown becomes `INTERNAL`.
 */
export type Handler = (
  input: any,
  context: Context,
) => unknown | Promise<unknown> | AsyncIterable<unknown>;

/** Handlers, by the names of their operations. */
export type Operations = Record<string, Handler>;

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

export class Serving {
  readonly #operations: ReadonlyMap<string, Handler>;
  readonly #maxFrame: number;
  readonly #ending = new Set<Channel>();
  readonly #running = new Map<string, { channel: Channel; controller: AbortController }>();

  constructor(operations: Operations, maxFrame: number) {
    const bare = (name: string) => name.replace(/^\//, "");
    this.#operations = new Map(
      Object.entries(operations).map(([name, handler]) => [bare(name), handler]),
    );
    this.#maxFrame = maxFrame;
  }

  has(id: string): boolean {
    return this.#running.has(id);
  }

  request(channel: Channel, id: string, request: Requested | CallError): void {
    if (this.#running.has(id)) return channel.reset(Reset.BadEnvelope);
    const refuse = (error: CallError) => {
      void channel.send(write("error", id, errorPayload(error)));
    };
    if (request instanceof CallError) return refuse(request);
    if (this.#running.size >= MAX_CALLS) {
      const text = `${MAX_CALLS} calls are in flight on the connection`;
      return refuse(new CallError(code.RESOURCE_EXHAUSTED, text, { retryable: true }));
    }
    const operation = request.operationId.replace(/^\//, "");
    const handler = this.#operations.get(operation);
    if (handler === undefined) {
      return refuse(new CallError(code.NOT_FOUND, `there is no operation \`${operation}\``));
    }
    if (request.timeout_ms === 0) return refuse(timedOut());
    const controller = new AbortController();
    this.#running.set(id, { channel, controller });
    void this.#run(channel, id, request, handler, { operation, signal: controller.signal });
  }

  /** Stops a call, if it is one of these. */
  abort(id: string, reason: unknown): boolean {
    const running = this.#running.get(id);
    this.#running.delete(id);
    running?.controller.abort(reason);
    return running !== undefined;
  }

  /** Stops all calls. */
  abortAll(reason: unknown): void {
    for (const id of this.#running.keys()) this.abort(id, reason);
  }

  /** No more requests come on a channel. If it broke off, its calls stop. */
  ended(channel: Channel, broken: boolean): void {
    if (broken) {
      for (const [id, running] of this.#running) {
        if (running.channel === channel) this.abort(id, new CallError(code.ABORTED, "stream ended"));
      }
    } else {
      this.#ending.add(channel);
      this.#settle(channel);
    }
  }

  /** Ends a channel on which nothing more is asked, once all is answered. */
  #settle(channel: Channel): void {
    const running = [...this.#running.values()].some((one) => one.channel === channel);
    if (!running && this.#ending.delete(channel)) channel.finish();
  }

  async #run(
    channel: Channel,
    id: string,
    { input, timeout_ms }: Requested,
    handler: Handler,
    context: Context,
  ): Promise<void> {
    const { signal } = context;
    const answer = (type: string, payload: unknown) => this.#send(channel, type, id, payload);
    // The last answer, unless there was one or the call was aborted.
    const last = async (type: string, payload: unknown) => {
      if (!this.#running.delete(id)) return;
      try {
        await answer(type, payload);
      } catch (error) {
        const { code: of, message } = asCallError(error);
        await answer("error", { code: of, message, retryable: false });
      }
    };
    const failed = (error: unknown) => last("error", errorPayload(asCallError(error)));
    const timer =
      timeout_ms === undefined
        ? undefined
        : setTimeout(() => {
            const controller = this.#running.get(id)?.controller;
            void failed(timedOut());
            controller?.abort(timedOut());
          }, Math.min(timeout_ms, MAX_DELAY));
    let items: AsyncIterator<unknown> | undefined;
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    aborted.catch(() => {});
    try {
      const given = await Promise.race([handler(input, context), aborted]);
      if (!isIterable(given)) {
        return await last("responded", { output: given ?? null });
      }
      items = given[Symbol.asyncIterator]();
      for (;;) {
        const { value, done } = await Promise.race([items.next(), aborted]);
        if (done) break;
        await Promise.race([answer("responded", { output: value ?? null }), aborted]);
      }
      await last("completed", {});
    } catch (error) {
      void items?.return?.().then(undefined, () => {});
      await failed(error);
    } finally {
      clearTimeout(timer);
      if (this.#ending.has(channel)) this.#settle(channel);
    }
  }

  async #send(channel: Channel, type: string, id: string, payload: unknown): Promise<void> {
    const envelope = write(type, id, payload);
    if (envelope.length > this.#maxFrame) {
      throw new CallError(
        code.INTERNAL,
        `the answer cannot be sent: ${envelope.length} bytes exceed the limit of ${this.#maxFrame}`,
      );
    }
    await channel.send(envelope);
  }
}

export function timedOut(): CallError {
  return new CallError(code.TIMEOUT, "the call's time is over", { retryable: true });
}

/** What others hear of a handler's error: not its text, which may hold anything. */
function asCallError(error: unknown): CallError {
  return error instanceof CallError ? error : new CallError(code.INTERNAL, "the handler failed");
}
