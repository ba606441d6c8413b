//! Sample plugin: echoes bytes and text; builds native and as a component.
//!
//! It shows the two things that a plugin can be at once: the handler of an ALPN,
//! which owns whole connections (`stream.rs`), and the code of operations, which
//! answer JSON with JSON (`say.rs`). Nothing in it depends on what
//! carries a connection or on how the plugin is built.

mod say;
mod stream;

use alknet_plugin_api::prelude::*;

/// The plugin.
pub struct Echo;

alknet_plugin_api::export!(Echo);

impl Plugin for Echo {
    fn manifest() -> Manifest {
        Manifest::new("echo", env!("CARGO_PKG_VERSION"))
            .description("Echoes streams, datagrams and text")
            .alpn(stream::ALPN)
            .operation(say::say())
            .operation(say::reverse())
            .operation(say::fail())
    }

    fn build(host: Host, _config: Json, on: &mut Registrar) -> Result<(), BuildError> {
        on.handler(stream::ALPN, stream::EchoHandler::new(host));
        on.operation("echo/say", |_, input: say::Text| async move { Ok(input) });
        on.operation("echo/reverse", |_, input: say::Text| async move { Ok(input.reversed()) });
        on.operation("echo/fail", |_, input: say::Text| async move {
            Err::<say::Text, _>(input.refused())
        });
        Ok(())
    }
}
