/**
 * The alknet call protocol in browsers.
 *
 * ```ts
 * const node = await connect("https://node.example", { token });
 * const { text } = await node.call("echo/say", { text: "hi" });
 * for await (const tick of node.subscribe("clock/ticks", { every_ms: 500 })) console.log(tick);
 * ```
 */

import { Connection } from "./connection.js";
import { DEFAULT_MAX_FRAME } from "./frame.js";
import { type Operations, Serving } from "./serving.js";
import { WebSocketTransport } from "./websocket.js";
import { WebTransportTransport } from "./webtransport.js";

export { type BatchCall, type CallOptions, Connection } from "./connection.js";
export type { AbortPolicy } from "./envelope.js";
export { CallError, code } from "./error.js";
export type { Context, Handler, Operations } from "./serving.js";
export type { Subscription } from "./subscription.js";
export type { CloseInfo } from "./transport.js";

/** Where the call protocol is unless the address says otherwise. */
const PATH = "/alknet/call";
/** Items that wait for a consumer: where the producer is suspended, and where it cannot be. */
const SUSPENDING = 32;
const BUFFERED = 1024;
/** How long a session may take before a socket is tried, in milliseconds. */
const PATIENCE = 3000;

/** How to connect. */
export interface ConnectOptions {
  /** A token of the node's, `alk_…`. WebSockets need one. */
  token?: string;
  /** What to connect by; `auto`, the default, tries WebTransport and then WebSocket. */
  transport?: "webtransport" | "websocket" | "auto";
  /** The address for WebTransport, where its port is another. */
  webtransportUrl?: string;
  /** Certificates that WebTransport takes besides those of known authorities. */
  serverCertificateHashes?: WebTransportHash[];
  /** Operations that the node may call here. */
  operations?: Operations;
  /** Items that may wait for a subscription's consumer; 32 by WebTransport, 1024 by WebSocket. */
  buffer?: number;
  /** The largest envelope, in bytes; 1 MiB, as the node's. */
  maxFrame?: number;
  /** Gives up connecting. */
  signal?: AbortSignal;
}

function address(url: string | URL, secure: string, plain: string): URL {
  const address = new URL(url, globalThis.location?.href);
  if (["https:", "wss:"].includes(address.protocol)) address.protocol = secure;
  else if (["http:", "ws:"].includes(address.protocol)) address.protocol = plain;
  else throw new TypeError(`no address of a node: ${address.href}`);
  if (address.pathname === "/") address.pathname = PATH;
  return address;
}

/** Connects to a node, such as `https://node.example`. */
export async function connect(
  url: string | URL,
  options: ConnectOptions = {},
): Promise<Connection> {
  const { token, transport = "auto", maxFrame = DEFAULT_MAX_FRAME, signal } = options;
  signal?.throwIfAborted();
  const common = { ...(token !== undefined && { token }), ...(signal && { signal }), maxFrame };
  const serving = new Serving(options.operations ?? {}, maxFrame);

  const webtransport = async (patience?: AbortSignal) => {
    const connection = new Connection(serving, maxFrame);
    const { serverCertificateHashes: hashes, webtransportUrl = url, buffer } = options;
    const to = address(webtransportUrl, "https:", "https:");
    const signals = [signal, patience].filter((one) => one !== undefined);
    const own = {
      ...common,
      items: buffer ?? SUSPENDING,
      ...(signals.length > 0 && { signal: AbortSignal.any(signals) }),
      ...(hashes !== undefined && { serverCertificateHashes: hashes }),
    };
    connection.attach(await WebTransportTransport.connect(to, own, connection));
    return connection;
  };
  const websocket = async () => {
    const connection = new Connection(serving, maxFrame);
    const own = { ...common, items: options.buffer ?? BUFFERED };
    const to = address(url, "wss:", "ws:");
    connection.attach(await WebSocketTransport.connect(to, own, connection));
    return connection;
  };

  if (transport === "webtransport") return webtransport();
  if (transport === "auto" && "WebTransport" in globalThis) {
    try {
      return await webtransport(AbortSignal.timeout(PATIENCE));
    } catch {
      signal?.throwIfAborted();
    }
  }
  return websocket();
}
