//! WebAssembly components, run by wasmtime.
