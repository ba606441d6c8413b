/** Calls in both directions over one connection. */

import { EnvelopeError, type AbortPolicy, read, write } from "./envelope.js";
import { CallError, code } from "./error.js";
import { Serving, timedOut } from "./serving.js";
import { Subscription } from "./subscription.js";
import { type Channel, type CloseInfo, type Listener, Reset, type Transport } from "./transport.js";

/** Ids of answered calls that are kept to notice a second answer. */
const ANSWERED_KEPT = 256;
/** Operations whose type is remembered. */
const TYPES_KEPT = 1024;

/** How one call is to be made. */
export interface CallOptions {
  /** Gives the call up: it rejects with the signal's reason, and the other side stops. */
  signal?: AbortSignal;
  /** Milliseconds after which the call fails with `TIMEOUT` and stops. */
  timeout?: number;
  /** A token that takes the place of the connection's, for this call. */
  token?: string;
  /** What an abort does to calls that the operation has made; they stop without this. */
  abortPolicy?: AbortPolicy;
}

/** One call of a batch. */
export interface BatchCall extends CallOptions {
  operation: string;
  input: unknown;
}

interface Pending {
  channel: Channel;
  item(output: unknown): Promise<void> | void;
  done(error?: unknown): void;
}

/** A connection to a node. `connect` makes one. */
export class Connection implements Listener {
  readonly #maxFrame: number;
  readonly #serving: Serving;
  readonly #pending = new Map<string, Pending>();
  readonly #answered = new Set<string>();
  readonly #types = new Map<string, string>();
  #transport!: Transport;
  #lost = false;

  /** Resolves when the connection has ended, however it did. */
  closed!: Promise<CloseInfo>;

  /** @internal */
  constructor(serving: Serving, maxFrame: number) {
    this.#serving = serving;
    this.#maxFrame = maxFrame;
  }

  /** @internal */
  attach(transport: Transport): void {
    this.#transport = transport;
    this.closed = transport.closed.then((info) => {
      this.#lost = true;
      this.#serving.abortAll(connectionClosed());
      for (const pending of this.#pending.values()) pending.done(connectionClosed());
      return info;
    });
  }

  /** What carries the connection. */
  get transport(): "webtransport" | "websocket" {
    return this.#transport.kind;
  }

  /** Calls a query or mutation. */
  async call<T = any>(operation: string, input: unknown, options: CallOptions = {}): Promise<T> {
    options.signal?.throwIfAborted();
    return new Promise<T>((resolve, reject) => {
      let answered = false;
      const item = (output: unknown) => {
        answered = true;
        resolve(output as T);
      };
      const done = (error?: unknown) => {
        if (answered) return;
        reject(error ?? new CallError(code.INTERNAL, "the call completed without a result"));
      };
      this.#start(operation, input, options, false, { item, done }).catch(reject);
    });
  }

  /**
   * Subscribes. Over WebTransport a consumer that pauses suspends the producer;
   * over WebSocket, where a page cannot, the subscription fails with
   * `RESOURCE_EXHAUSTED` once `buffer` items wait.
   */
  subscribe<T = any>(
    operation: string,
    input: unknown,
    options: CallOptions = {},
  ): Subscription<T> {
    const left = new AbortController();
    const items = new Subscription<T>(this.#transport.buffer, () => left.abort());
    const signal = options.signal && AbortSignal.any([options.signal, left.signal]);
    const started = async () => {
      options.signal?.throwIfAborted();
      const type = await this.#type(operation, options);
      if (type !== undefined && type !== "subscription") {
        throw new CallError(code.INVALID_OPERATION_TYPE, `${bare(operation)} is no subscription`);
      }
      if (left.signal.aborted) return;
      await this.#start(operation, input, { ...options, signal: signal ?? left.signal }, true, {
        item: (output) => items.push(output as T),
        done: (error) => items.end(error),
      });
    };
    started().catch((error: unknown) => items.end(error));
    return items;
  }

  /** Makes calls side by side; what became of each, in their order. */
  batch(calls: readonly BatchCall[]): Promise<PromiseSettledResult<any>[]> {
    return Promise.allSettled(
      calls.map(({ operation, input, ...options }) => this.call(operation, input, options)),
    );
  }

  /** Closes the connection. Calls in flight fail. */
  async close(reason = ""): Promise<void> {
    this.#transport.close(reason);
    await this.closed;
  }

  /** The type of an operation, as far as the other side tells this caller. */
  async #type(operation: string, options: CallOptions): Promise<string | undefined> {
    const { token, signal, timeout } = options;
    const name = bare(operation);
    const key = JSON.stringify([name, token]);
    const asking = { ...(token && { token }), ...(signal && { signal }), ...(timeout && { timeout }) };
    const known = this.#types.get(key);
    if (known !== undefined) return known;
    try {
      const { op_type } = await this.call<{ op_type: string }>("services/schema", { name }, asking);
      if (this.#types.size >= TYPES_KEPT) this.#types.clear();
      this.#types.set(key, op_type);
      return op_type;
    } catch (error) {
      if (error instanceof CallError && error.code === code.NOT_FOUND) return undefined;
      throw error;
    }
  }

  async #start(
    operation: string,
    input: unknown,
    { signal, timeout, token, abortPolicy }: CallOptions,
    subscription: boolean,
    answers: Omit<Pending, "channel">,
  ): Promise<void> {
    let channel: Channel;
    try {
      if (this.#lost) throw connectionClosed();
      channel = await this.#transport.open(subscription);
    } catch {
      return answers.done(connectionClosed());
    }
    if (this.#lost) return answers.done(connectionClosed());
    if (signal?.aborted) return answers.done(signal.reason);
    const id = newId();
    const bearer = token ?? this.#transport.token;
    const request = write("requested", id, {
      operationId: `/${bare(operation)}`,
      input: input ?? null,
      ...(bearer !== undefined && { auth_token: bearer }),
      ...(timeout !== undefined && { timeout_ms: Math.max(0, Math.ceil(timeout)) }),
    });
    if (request.length > this.#maxFrame) {
      const text = `the request has ${request.length} bytes, and the limit is ${this.#maxFrame}`;
      return answers.done(new CallError(code.INVALID_INPUT, text));
    }
    const stop = (error: unknown, reason: string) => {
      if (!this.#pending.has(id)) return;
      const policy = abortPolicy === undefined ? {} : { policy: abortPolicy };
      void channel.send(write("aborted", id, { ...policy, reason }));
      this.#pending.get(id)?.done(error);
    };
    const aborted = () => stop(signal?.reason, "given up");
    const timer =
      timeout === undefined ? undefined : setTimeout(() => stop(timedOut(), "timeout"), timeout);
    signal?.addEventListener("abort", aborted, { once: true });
    this.#pending.set(id, {
      channel,
      item: (output) => {
        const room = answers.item(output);
        if (!subscription) {
          this.#keep(id);
          this.#pending.get(id)?.done();
        }
        return room;
      },
      done: (error) => {
        if (!this.#pending.delete(id)) return;
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        // A stream of its own has served its purpose.
        if (subscription) channel.finish();
        answers.done(error);
      },
    });
    await channel.send(request);
  }

  #keep(id: string): void {
    if (this.#answered.size >= ANSWERED_KEPT) {
      for (const oldest of this.#answered) {
        this.#answered.delete(oldest);
        break;
      }
    }
    this.#answered.add(id);
  }

  /** @internal */
  message(channel: Channel, envelope: Uint8Array): Promise<void> | void {
    let event;
    try {
      event = read(envelope);
    } catch (error) {
      if (!(error instanceof EnvelopeError)) throw error;
      return channel.reset(Reset.BadEnvelope);
    }
    if (event.type === "unknown") return;
    const pending = this.#pending.get(event.id);
    switch (event.type) {
      case "requested":
        if (pending !== undefined) return channel.reset(Reset.BadEnvelope);
        return this.#serving.request(channel, event.id, event.request);
      case "responded":
        if (pending !== undefined) return pending.item(event.output);
        // A second item: what was called is a subscription.
        if (this.#answered.delete(event.id)) {
          const reason = "called, not subscribed to";
          void channel.send(write("aborted", event.id, { reason }));
        }
        return;
      case "completed":
        return pending?.done();
      case "error":
        return pending?.done(event.error);
      case "aborted": {
        const error = new CallError(code.ABORTED, event.reason ?? "aborted by the other side");
        if (!this.#serving.abort(event.id, error)) pending?.done(error);
        return;
      }
    }
  }

  /** @internal */
  async ended(channel: Channel, broken: boolean): Promise<void> {
    this.#transport.forget?.(channel);
    this.#serving.ended(channel, broken);
    // The end of a connection ends its streams first.
    await new Promise((resolve) => setTimeout(resolve));
    const error = this.#lost
      ? connectionClosed()
      : new CallError(code.INTERNAL, "stream ended");
    for (const pending of this.#pending.values()) {
      if (pending.channel === channel) pending.done(error);
    }
  }
}

function bare(operation: string): string {
  return operation.replace(/^\//, "");
}

function connectionClosed(): CallError {
  return new CallError(code.INTERNAL, "connection closed");
}

/** A UUID of version 4. */
function newId(): string {
  return crypto.randomUUID();
}
