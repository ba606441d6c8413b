//! Sample plugin: echoes bytes and text; builds native and as a component.
