/** The codes of the protocol. Operations declare further ones. */
export const code = {
  NOT_FOUND: "NOT_FOUND",
  FORBIDDEN: "FORBIDDEN",
  INVALID_INPUT: "INVALID_INPUT",
  INVALID_OPERATION_TYPE: "INVALID_OPERATION_TYPE",
  INTERNAL: "INTERNAL",
  TIMEOUT: "TIMEOUT",
  RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
  ABORTED: "ABORTED",
} as const;

/** Why a call failed. Decide by `code`; the message is for people. */
export class CallError extends Error {
  readonly code: string;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** What the code's declaration says; absent where there is none. */
  readonly details?: unknown;

  constructor(
    code: string,
    message: string,
    more: { retryable?: boolean; details?: unknown } = {},
  ) {
    super(message);
    this.name = "CallError";
    this.code = code;
    this.retryable = more.retryable ?? false;
    if (more.details !== undefined) this.details = more.details;
  }
}
