/** The call protocol over a WebSocket: one envelope is one binary message. */

import { CallError, code } from "./error.js";
import { type Channel, type CloseInfo, type Listener, Reset, type Transport } from "./transport.js";

/** Bytes that may wait to be sent before senders do. */
const HIGH_WATER = 256 * 1024;
/** How often the browser is asked whether they still wait, in milliseconds. */
const ASK_AGAIN = 10;
/** The first close code that applications may use for themselves. */
const OWN_CODES = 4000;

function base64url(text: string): string {
  const bytes = new TextEncoder().encode(text);
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export class WebSocketTransport implements Transport, Channel {
  readonly kind = "websocket";
  readonly buffer: { items: number; suspends: boolean };
  readonly closed: Promise<CloseInfo>;
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket, items: number) {
    this.#socket = socket;
    // A browser reads a socket whether or not anybody consumes what comes.
    this.buffer = { items, suspends: false };
    this.closed = new Promise((resolve) => {
      socket.addEventListener("close", ({ code, reason }) => resolve({ code, reason }));
    });
  }

  /** Connects. A browser does not tell why it could not. */
  static async connect(
    url: URL,
    options: { token?: string; items: number; signal?: AbortSignal },
    listener: Listener,
  ): Promise<WebSocketTransport> {
    const protocols = ["alknet.call"];
    // Browsers let pages set no headers, and addresses are logged.
    if (options.token !== undefined) {
      protocols.push(`alknet.bearer.${base64url(options.token)}`);
    }
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    const transport = new WebSocketTransport(socket, options.items);
    socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer) void listener.message(transport, new Uint8Array(data));
      else transport.reset(Reset.BadEnvelope);
    });
    await new Promise<void>((resolve, reject) => {
      const { signal } = options;
      const abort = () => {
        socket.close();
        reject(signal?.reason);
      };
      if (signal?.aborted) return abort();
      signal?.addEventListener("abort", abort, { once: true });
      const settle = (settled: () => void) => () => {
        signal?.removeEventListener("abort", abort);
        settled();
      };
      socket.addEventListener("open", settle(resolve), { once: true });
      const refused = () => {
        reject(new CallError(code.INTERNAL, `no WebSocket to ${url.host}`, { retryable: true }));
      };
      socket.addEventListener("close", settle(refused), { once: true });
    });
    return transport;
  }

  async open(): Promise<Channel> {
    return this;
  }

  async send(envelope: Uint8Array): Promise<void> {
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(envelope as Uint8Array<ArrayBuffer>);
    }
    while (this.#socket.readyState === WebSocket.OPEN && this.#socket.bufferedAmount > HIGH_WATER) {
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
    }
  }

  finish(): void {}

  reset(code: Reset): void {
    this.#socket.close(OWN_CODES + code, code === Reset.BadEnvelope ? "BAD_ENVELOPE" : "");
  }

  close(reason: string): void {
    this.#socket.close(1000, reason);
  }
}
