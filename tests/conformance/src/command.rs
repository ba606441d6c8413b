//! What a client can ask for.
//!
//! Each bidirectional stream that the client opens begins with one command: a line
//! of JSON. What follows on the stream, in either direction, is the command's.

use serde::{Deserialize, Serialize};

/// One behaviour of the handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Sends everything back as it comes, and passes ends and codes on.
    Echo,
    /// Reads to the client's end and only then answers, with the number of bytes.
    Count,
    /// Answers with one byte, reads to the end, whatever it is, and reports it
    /// ([`Ended`]) on a unidirectional stream of its own.
    ReportEnd,
    /// Writes until the client stops it, and reports the code ([`Ended`]) on a
    /// unidirectional stream of its own.
    ReportStop,
    /// Resets the answer.
    Reset {
        /// With this code.
        code: u64,
    },
    /// Stops reading.
    Stop {
        /// With this code.
        code: u64,
    },
    /// Drops its half unfinished after a few bytes.
    DropUnfinished,
    /// Opens unidirectional streams to the client, one after the other, each with
    /// its number as text.
    OpenUni {
        /// How many.
        count: u32,
    },
    /// Opens bidirectional streams to the client, all at the same time, each with
    /// its number as text; answers with how many came back the same.
    OpenBi {
        /// How many.
        count: u32,
    },
    /// Answers with what the connection tells about itself.
    Info,
    /// Sends a datagram of this size, and answers with the error if there is one.
    Datagram {
        /// In bytes.
        size: usize,
    },
    /// Resolves the token and names the peer after it, twice; answers with the
    /// name kept and whether the second attempt was refused.
    Identify {
        /// A bearer token.
        token: String,
    },
    /// Answers after a while.
    Sleep {
        /// In milliseconds.
        ms: u64,
    },
    /// Answers from a task that it spawns.
    Spawn,
    /// Spawns a task that waits as [`Command::Wait`] does, aborts it once it does,
    /// and answers when it has ended.
    SpawnAbort {
        /// Tells its lines in the log from others.
        mark: String,
    },
    /// Answers when the node begins to drain.
    AwaitShutdown,
    /// Logs `waiting: <mark>`, waits for ever, and logs `stopped waiting: <mark>`
    /// when dropped.
    Wait {
        /// Tells its lines in the log from others.
        mark: String,
    },
    /// Writes as fast as it can until it has written this much, and finishes.
    Flood {
        /// In bytes.
        bytes: u64,
    },
    /// Closes the connection.
    Close {
        /// With this code.
        code: u64,
        /// With this reason.
        reason: String,
    },
    /// Returns from the handler.
    Return,
    /// Returns an error from the handler.
    Fail,
    /// Returns from the handler, saying that authentication is required.
    RequireAuth,
    /// Panics in the handler.
    Panic,
    /// Answers, waits for ever, and panics when the handler's future is dropped.
    PanicInDrop,
    /// Never lets go of its thread.
    Spin {
        /// For so many milliseconds; for ever without.
        ms: Option<u64>,
    },
    /// Takes memory and touches all of it; answers if it gets it.
    Allocate {
        /// In bytes.
        bytes: u64,
    },
}

impl Command {
    /// The command as it begins a stream.
    ///
    /// # Errors
    /// None in practice: commands hold nothing that JSON cannot.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// How a stream ended, as the handler saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ended {
    /// Cleanly, after this many bytes.
    Finished {
        /// In bytes.
        bytes: u64,
    },
    /// By the client's reset.
    Reset {
        /// The client's code.
        code: u64,
    },
    /// By the client's stop.
    Stopped {
        /// The client's code.
        code: u64,
    },
    /// With the connection, or in some other way.
    Other {
        /// The error's text.
        error: String,
    },
}
