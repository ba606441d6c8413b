/** The consumer's side of a subscription. */

import { CallError, code } from "./error.js";

type Waiting<T> = {
  resolve: (result: IteratorResult<T, undefined>) => void;
  reject: (error: unknown) => void;
};

/**
 * Items as they come. Leaving a `for await` loop, or calling `return`, ends the
 * subscription on the other side as well.
 */
export class Subscription<T = unknown> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #items: T[] = [];
  readonly #waiting: Waiting<T>[] = [];
  readonly #limit: number;
  readonly #suspends: boolean;
  readonly #left: () => void;
  #end: { error?: unknown } | undefined;
  #room: (() => void) | undefined;

  /** @internal */
  constructor(buffer: { items: number; suspends: boolean }, left: () => void) {
    this.#limit = buffer.items;
    this.#suspends = buffer.suspends;
    this.#left = left;
  }

  /** @internal An item has come; it resolves when there is room for another. */
  push(item: T): Promise<void> | void {
    if (this.#end !== undefined) return;
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) return waiting.resolve({ value: item, done: false });
    this.#items.push(item);
    if (this.#items.length < this.#limit) return;
    if (this.#suspends) return new Promise((resolve) => (this.#room = resolve));
    if (this.#items.length === this.#limit) return;
    const text = `more than ${this.#limit} items wait; read faster, or raise \`buffer\``;
    this.end(new CallError(code.RESOURCE_EXHAUSTED, text, { retryable: true }));
    this.#left();
  }

  /** @internal Nothing follows the items that wait. */
  end(error?: unknown): void {
    if (this.#end !== undefined) return;
    this.#end = error === undefined ? {} : { error };
    this.#room?.();
    // Only where no item waits does anybody wait for one.
    this.#waiting.splice(0).forEach((waiting) => void this.next().then(waiting.resolve, waiting.reject));
  }

  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#items.length > 0) {
      const value = this.#items.shift() as T;
      this.#room?.();
      this.#room = undefined;
      return Promise.resolve({ value, done: false });
    }
    if (this.#end === undefined) {
      return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    }
    const { error } = this.#end;
    this.#end = {};
    return error === undefined
      ? Promise.resolve({ value: undefined, done: true })
      : Promise.reject(error);
  }

  return(): Promise<IteratorResult<T, undefined>> {
    const ended = this.#end !== undefined;
    this.#items.length = 0;
    this.end();
    this.#end = {};
    if (!ended) this.#left();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
