//! Write an alknet plugin: handlers, operations, and the stable ABI that carries them.
