//! The macro that makes a crate a plugin.

/// Exports a [`Plugin`](crate::Plugin) from its crate, once.
///
/// The same line serves both substrates: built as a `cdylib` the crate becomes a
/// native plugin, built for `wasm32-wasip2` a component.
///
/// ```toml
/// [lib]
/// crate-type = ["cdylib", "rlib"]
/// ```
///
/// A native plugin must unwind on panic, since that is how a panic is contained;
/// with `panic = "abort"` it does not compile.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_family = "wasm")]
        $crate::guest::__export!($plugin);

        #[cfg(not(target_family = "wasm"))]
        const _: () = {
            #[cfg(panic = "abort")]
            ::core::compile_error!(
                "an alknet plugin contains its panics by unwinding: remove `panic = \"abort\"` \
                 from the profile"
            );

            #[unsafe(export_name = "alknet_plugin_header_1")]
            #[used]
            #[allow(unsafe_code)]
            static HEADER: $crate::abi::Header = $crate::abi::Header::of::<$plugin>();
        };
    };
}
