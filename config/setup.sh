#!/usr/bin/env bash
# Checks for what building and testing need, installs what it can, and names
# the command for what it cannot.
set -euo pipefail

missing() {
    echo "missing: $1" >&2
    echo "  install it with: $2" >&2
    exit 1
}

command -v cargo >/dev/null || missing "cargo" "see rustup.rs"
if ! rustup target list --installed 2>/dev/null | grep -qx wasm32-wasip2; then
    echo "installing the wasm32-wasip2 target"
    rustup target add wasm32-wasip2 || missing "the wasm32-wasip2 target" "rustup target add wasm32-wasip2"
fi
command -v cc >/dev/null || missing "a C compiler" "apt-get install gcc"
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest"
    cargo install --locked cargo-nextest || missing "cargo-nextest" "cargo install --locked cargo-nextest"
fi
