//! A command's line and its answer.

use alknet_plugin_api::prelude::*;
use serde::Serialize;

use crate::command::Command;

/// Longest command, in bytes.
const MAX_LINE: usize = 4096;

/// Reads the line that begins a stream, and nothing after it.
pub(crate) async fn command(recv: &mut RecvStream) -> Result<Command, HandlerError> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if line.len() == MAX_LINE {
            return Err(HandlerError::internal("the command is too long"));
        }
        match recv.read(&mut byte).await? {
            Some(_) if byte[0] == b'\n' => break,
            Some(_) => line.push(byte[0]),
            None => return Err(HandlerError::internal("the stream ended in its command")),
        }
    }
    serde_json::from_slice(&line)
        .map_err(|error| HandlerError::internal(format!("no command: {error}")))
}

/// Answers with JSON, ends the stream, and waits until that has arrived.
pub(crate) async fn answer<T: Serialize + ?Sized>(
    send: &mut SendStream,
    value: &T,
) -> Result<(), StreamError> {
    let json = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    send.write_all(&json).await?;
    send.finish()?;
    send.stopped().await?;
    Ok(())
}
