//! The `alknet` command.

fn main() {}
