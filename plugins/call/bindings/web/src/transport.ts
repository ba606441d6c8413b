/** What carries envelopes. */

/** A socket, or one stream of a session. */
export interface Channel {
  /** Sends one envelope. It resolves when there is room for the next. */
  send(envelope: Uint8Array): Promise<void>;
  /** Nothing more is sent. Other channels go on; a socket stays. */
  finish(): void;
  /** Ends it because of what the other side sent. */
  reset(code: Reset): void;
}

/** The codes that streams are reset with. */
export const enum Reset {
  Cancelled = 0x00,
  BadFrame = 0x01,
  BadEnvelope = 0x02,
}

/** Who hears what comes. */
export interface Listener {
  /** An envelope has come. No other of this channel does until this resolves. */
  message(channel: Channel, envelope: Uint8Array): Promise<void> | void;
  /** Nothing more comes on this channel; whether it broke off. */
  ended(channel: Channel, broken: boolean): void;
}

/** How a connection ended. */
export interface CloseInfo {
  /** The transport's close code, where one came. */
  code?: number;
  reason: string;
}

/** An established connection. */
export interface Transport {
  readonly kind: "webtransport" | "websocket";
  /** What every request must have, since its connection does not say it. */
  readonly token?: string;
  /** Items that may wait for a subscription's consumer. */
  readonly buffer: { items: number; suspends: boolean };
  /** The channel of a call, its own if so asked and if there can be one. */
  open(own: boolean): Promise<Channel>;
  /** This channel has ended. */
  forget?(channel: Channel): void;
  close(reason: string): void;
  readonly closed: Promise<CloseInfo>;
}
