/** Envelopes: what a frame or a message holds. */

import { CallError, code } from "./error.js";

/** How far an abort reaches. */
export type AbortPolicy = "abort-dependents" | "continue-running";

/** A request's payload. */
export interface Requested {
  operationId: string;
  input: unknown;
  auth_token?: string;
  timeout_ms?: number;
}

/** An envelope as it was read. What is malformed is told where it is answered. */
export type Event =
  | { type: "requested"; id: string; request: Requested | CallError }
  | { type: "responded"; id: string; output: unknown }
  | { type: "completed"; id: string }
  | { type: "aborted"; id: string; reason: string | undefined }
  | { type: "error"; id: string; error: CallError }
  | { type: "unknown" };

/** No envelope that could be answered. */
export class EnvelopeError extends Error {
  override readonly name = "EnvelopeError";
}

/** Most entries of `forwarded_for`. */
const MAX_FORWARDED = 8;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

type Fields = Record<string, unknown>;

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The bytes of an envelope. */
export function write(type: string, id: string, payload: unknown): Uint8Array {
  return encoder.encode(JSON.stringify({ type: `call.${type}`, id, payload }));
}

/** The payload of an error. */
export function errorPayload(error: CallError): Fields {
  const { code, message, retryable, details } = error;
  return details === undefined
    ? { code, message, retryable }
    : { code, message, retryable, details };
}

/** Reads an envelope; throws an `EnvelopeError` where nothing could be answered. */
export function read(bytes: Uint8Array): Event {
  let envelope: unknown;
  try {
    envelope = JSON.parse(decoder.decode(bytes));
  } catch {
    throw new EnvelopeError("no JSON");
  }
  if (!isFields(envelope)) throw new EnvelopeError("no object");
  const { type, id, payload } = envelope;
  if (typeof type !== "string" || typeof id !== "string") {
    throw new EnvelopeError("`type` and `id` must be texts");
  }
  const length = encoder.encode(id).length;
  if (length < 1 || length > 128) throw new EnvelopeError("an id has 1 to 128 bytes");
  const fields = isFields(payload) ? payload : undefined;
  switch (type) {
    case "call.requested":
      return { type: "requested", id, request: request(fields) };
    case "call.responded":
      return fields !== undefined && "output" in fields && isAbsentOr("boolean", fields["terminal"])
        ? { type: "responded", id, output: fields["output"] }
        : { type: "error", id, error: malformed("call.responded") };
    case "call.completed":
      return fields !== undefined
        ? { type: "completed", id }
        : { type: "error", id, error: malformed("call.completed") };
    case "call.aborted": {
      const reason = fields?.["reason"];
      return { type: "aborted", id, reason: typeof reason === "string" ? reason : undefined };
    }
    case "call.error":
      return { type: "error", id, error: error(fields) };
    default:
      return { type: "unknown" };
  }
}

function isAbsentOr(type: "boolean" | "string", value: unknown): boolean {
  return value === undefined || typeof value === type;
}

function isForwardedFor(value: unknown): boolean {
  if (value === undefined) return true;
  const isIdentity = (one: unknown) => isFields(one) && typeof one["id"] === "string";
  return Array.isArray(value) && value.length <= MAX_FORWARDED && value.every(isIdentity);
}

function malformed(type: string): CallError {
  return new CallError(code.INTERNAL, `the answer is a malformed ${type}`);
}

function request(fields: Fields | undefined): Requested | CallError {
  const invalid = (text: string) => new CallError(code.INVALID_INPUT, text);
  if (fields === undefined) return invalid("`payload` must be an object");
  const { operationId, input, timeout_ms } = fields;
  if (typeof operationId !== "string") return invalid("`operationId` must be a text");
  if (!("input" in fields)) return invalid("`input` is missing");
  if (!isAbsentOr("string", fields["auth_token"] ?? undefined)) {
    return invalid("`auth_token` must be a text");
  }
  if (!isForwardedFor(fields["forwarded_for"])) {
    return invalid(`\`forwarded_for\` must be a list of at most ${MAX_FORWARDED} identities`);
  }
  if (timeout_ms === undefined || timeout_ms === null) return { operationId, input };
  if (!Number.isInteger(timeout_ms) || (timeout_ms as number) < 0) {
    return invalid("`timeout_ms` must be a number of milliseconds");
  }
  return { operationId, input, timeout_ms: timeout_ms as number };
}

function error(fields: Fields | undefined): CallError {
  const { code: of, message, retryable, details } = fields ?? {};
  if (typeof of !== "string" || typeof message !== "string" || typeof retryable !== "boolean") {
    return malformed("call.error");
  }
  return new CallError(of, message, { retryable, details });
}
