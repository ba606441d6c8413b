//! The call protocol: frames, envelopes, and a client over any alknet connection.
