/** The call protocol over WebTransport: streams with frames, as over QUIC. */

import { CallError, code } from "./error.js";
import { FrameDecoder, FrameError, frame } from "./frame.js";
import { type Channel, type CloseInfo, type Listener, Reset, type Transport } from "./transport.js";

class StreamChannel implements Channel {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  constructor(stream: WebTransportBidirectionalStream, limit: number, listener: Listener) {
    this.#reader = stream.readable.getReader() as ReadableStreamDefaultReader<Uint8Array>;
    this.#writer = stream.writable.getWriter() as WritableStreamDefaultWriter<Uint8Array>;
    // How it ends is told by reading.
    this.#writer.closed.catch(() => {});
    void this.#read(limit, listener);
  }

  async #read(limit: number, listener: Listener): Promise<void> {
    const decoder = new FrameDecoder(limit);
    let broken = false;
    try {
      for (;;) {
        const { value, done } = await this.#reader.read();
        if (done) break;
        decoder.push(value);
        for (let next = decoder.next(); next !== undefined; next = decoder.next()) {
          // While this waits, nothing is read, and flow control holds the sender.
          await listener.message(this, next);
        }
      }
      decoder.finish();
    } catch (error) {
      broken = true;
      if (error instanceof FrameError) this.reset(Reset.BadFrame);
    }
    listener.ended(this, broken);
  }

  async send(envelope: Uint8Array): Promise<void> {
    try {
      void this.#writer.write(frame(envelope)).catch(() => {});
      await this.#writer.ready;
    } catch {
      // The stream has ended, which its reader tells.
    }
  }

  finish(): void {
    void this.#writer.close().catch(() => {});
  }

  reset(code: Reset): void {
    const error = new WebTransportError("", { streamErrorCode: code });
    void this.#writer.abort(error).catch(() => {});
    void this.#reader.cancel(error).catch(() => {});
  }
}

export class WebTransportTransport implements Transport {
  readonly kind = "webtransport";
  readonly buffer: { items: number; suspends: boolean };
  readonly closed: Promise<CloseInfo>;
  readonly token?: string;
  readonly #session: WebTransport;
  readonly #limit: number;
  readonly #listener: Listener;
  #shared: Promise<Channel> | undefined;

  private constructor(
    session: WebTransport,
    options: { token?: string; items: number; maxFrame: number },
    listener: Listener,
  ) {
    this.#session = session;
    this.#limit = options.maxFrame;
    this.#listener = listener;
    this.buffer = { items: options.items, suspends: true };
    // A session's request has no header of a page's, so that each call says it.
    if (options.token !== undefined) this.token = options.token;
    this.closed = session.closed.then(
      ({ closeCode, reason }) => ({ code: closeCode ?? 0, reason: reason ?? "" }),
      (error: unknown) => ({ reason: String(error) }),
    );
  }

  static async connect(
    url: URL,
    options: {
      token?: string;
      items: number;
      maxFrame: number;
      signal?: AbortSignal;
      serverCertificateHashes?: WebTransportHash[];
    },
    listener: Listener,
  ): Promise<WebTransportTransport> {
    const { serverCertificateHashes, signal } = options;
    const session = new WebTransport(
      url.href,
      serverCertificateHashes === undefined ? {} : { serverCertificateHashes },
    );
    const transport = new WebTransportTransport(session, options, listener);
    const abort = () => session.close();
    signal?.addEventListener("abort", abort, { once: true });
    try {
      await session.ready;
    } catch (error) {
      signal?.throwIfAborted();
      const text = `no WebTransport session at ${url.host}: ${String(error)}`;
      throw new CallError(code.INTERNAL, text, { retryable: true });
    } finally {
      signal?.removeEventListener("abort", abort);
    }
    void transport.#accept();
    return transport;
  }

  /** Takes the streams that the other side opens. */
  async #accept(): Promise<void> {
    const streams = this.#session.incomingBidirectionalStreams.getReader();
    try {
      for (;;) {
        const { value, done } = await streams.read();
        if (done) return;
        new StreamChannel(value as WebTransportBidirectionalStream, this.#limit, this.#listener);
      }
    } catch {
      // The session has ended, which `closed` tells.
    }
  }

  async #stream(): Promise<Channel> {
    const stream = await this.#session.createBidirectionalStream();
    return new StreamChannel(stream, this.#limit, this.#listener);
  }

  async open(own: boolean): Promise<Channel> {
    if (own) return this.#stream();
    return (this.#shared ??= this.#stream());
  }

  /** The channel that calls share has ended; the next call opens another. */
  forget(channel: Channel): void {
    const shared = this.#shared;
    void shared?.then((one) => {
      if (one === channel && this.#shared === shared) this.#shared = undefined;
    });
  }

  close(reason: string): void {
    this.#session.close({ closeCode: 0, reason });
  }
}
