/** Frames of a stream: a 4-byte big-endian length, then that many bytes. */

/** The largest frame unless configured otherwise: 1 MiB. */
export const DEFAULT_MAX_FRAME = 1 << 20;

const PREFIX = 4;

/** What is wrong with a frame. */
export class FrameError extends Error {
  override readonly name = "FrameError";
}

/** The frame with this content. */
export function frame(content: Uint8Array): Uint8Array {
  const whole = new Uint8Array(PREFIX + content.length);
  new DataView(whole.buffer).setUint32(0, content.length);
  whole.set(content, PREFIX);
  return whole;
}

/** Cuts a stream of bytes into frames. What a prefix claims is never allocated. */
export class FrameDecoder {
  readonly #limit: number;
  #chunks: Uint8Array[] = [];
  #held = 0;

  constructor(limit: number = DEFAULT_MAX_FRAME) {
    this.#limit = limit;
  }

  /** Takes what has arrived. */
  push(chunk: Uint8Array): void {
    if (chunk.length > 0) this.#chunks.push(chunk);
    this.#held += chunk.length;
  }

  /** The next whole frame, without its prefix; `undefined` until more has arrived. */
  next(): Uint8Array | undefined {
    if (this.#held < PREFIX) return undefined;
    const prefix = this.#front(PREFIX);
    const size = new DataView(prefix.buffer, prefix.byteOffset).getUint32(0);
    if (size === 0) throw new FrameError("a frame of no bytes");
    if (size > this.#limit) {
      throw new FrameError(`a frame of ${size} bytes exceeds the limit of ${this.#limit}`);
    }
    if (this.#held < PREFIX + size) return undefined;
    const whole = this.#front(PREFIX + size);
    const rest = this.#chunks[0]!.subarray(PREFIX + size);
    if (rest.length > 0) this.#chunks[0] = rest;
    else this.#chunks.shift();
    this.#held -= PREFIX + size;
    return whole.subarray(PREFIX, PREFIX + size);
  }

  /** Checks that the stream may end here. */
  finish(): void {
    if (this.#held > 0) throw new FrameError("the stream ended inside a frame");
  }

  /** The first chunk, which is made to have so many bytes. */
  #front(size: number): Uint8Array {
    const first = this.#chunks[0]!;
    if (first.length >= size) return first;
    let taken = 0;
    let held = 0;
    while (held < size) held += this.#chunks[taken++]!.length;
    const joined = new Uint8Array(held);
    let at = 0;
    for (const chunk of this.#chunks.splice(0, taken)) {
      joined.set(chunk, at);
      at += chunk.length;
    }
    this.#chunks.unshift(joined);
    return joined;
  }
}
