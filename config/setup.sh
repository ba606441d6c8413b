#!/usr/bin/env bash
# Checks for what building and testing need, installs what it can, and names
# the command for what it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

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
# Plugins of another compiler are loaded, too.
if ! rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    echo "installing a nightly compiler"
    if ! rustup toolchain install nightly --profile minimal --no-self-update; then
        echo "missing: a nightly compiler, so one test of plugins will fail" >&2
        echo "  install it with: rustup toolchain install nightly --profile minimal" >&2
    fi
fi
command -v cc >/dev/null || missing "a C compiler" "apt-get install gcc"
command -v make >/dev/null || missing "make" "apt-get install make"
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "installing cargo-nextest"
    cargo install --locked cargo-nextest || missing "cargo-nextest" "cargo install --locked cargo-nextest"
fi

# Services and references that tests run. A node runs without them, so a failure
# here is told, and the tests that need them fail.
python="${CARGO_TARGET_DIR:-target}/python"
packages=tests/python/requirements.txt
wanted="$(cksum <"$packages")"
if [ "$(cat "$python/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing the Python packages that tests run"
    if rm -rf "$python" && python3 -m venv "$python" &&
        "$python/bin/pip" install --quiet --disable-pip-version-check -r "$packages"; then
        echo "$wanted" >"$python/installed"
    else
        echo "missing: the Python packages that some tests run" >&2
        echo "  install them with: apt-get install python3-venv && make setup" >&2
    fi
fi

# The official SDKs and the conformance suite of MCP, a Node for those, and what builds
# plugins in JavaScript.
node="${CARGO_TARGET_DIR:-target}/node"
wanted="$(cat tests/node/package.json tests/node/package-lock.json | cksum)"
if [ "$(cat "$node/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing the Node packages that tests run"
    rm -rf "$node" && mkdir -p "$node"
    cp tests/node/package.json tests/node/package-lock.json "$node"
    if npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund --loglevel=error; then
        echo "$wanted" >"$node/installed"
    else
        echo "missing: the Node packages that some tests run" >&2
        echo "  install them with: apt-get install npm && make setup" >&2
    fi
fi

# Foreign clients of TLS and HTTP that tests run.
for client in curl openssl; do
    if ! command -v "$client" >/dev/null; then
        echo "missing: $client, so the tests of HTTP will fail" >&2
        echo "  install it with: apt-get install $client" >&2
    fi
done

# The shells whose completions are tried, and what shows manual pages.
for program in zsh:zsh fish:fish man:man-db script:bsdutils; do
    command="${program%%:*}" package="${program##*:}"
    if ! command -v "$command" >/dev/null; then
        echo "installing $package"
        install="apt-get install -y -qq --no-install-recommends $package"
        if ! { [ "$(id -u)" = 0 ] && { $install || { apt-get update -qq && $install; }; }; }; then
            echo "missing: $command, so the tests of the command line will fail" >&2
            echo "  install it with: apt-get install $package" >&2
        fi
    fi
done

# The web client, and what compiles it and drives a browser to test it.
web=plugins/call/bindings/web
wanted="$(cksum <"$web/package-lock.json")"
if [ "$(cat "$web/node_modules/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing what the web client is built and tested with"
    if npm ci --prefix "$web" --silent --no-audit --no-fund --ignore-scripts; then
        echo "$wanted" >"$web/node_modules/installed"
    else
        echo "missing: npm packages, so the tests of the web client will fail" >&2
        echo "  install them with: apt-get install nodejs npm && make setup" >&2
    fi
fi
wanted="$(cat "$web"/package-lock.json "$web"/tsconfig.json "$web"/src/* | cksum)"
if [ -f "$web/node_modules/installed" ] && [ "$(cat "$web/dist/built" 2>/dev/null)" != "$wanted" ]; then
    echo "building the web client"
    rm -rf "$web/dist"
    npm run --prefix "$web" --silent build && echo "$wanted" >"$web/dist/built"
fi
browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}
if ! browser >/dev/null; then
    echo "installing chromium"
    install="apt-get install -y -qq --no-install-recommends chromium"
    if ! { [ "$(id -u)" = 0 ] && { $install || { apt-get update -qq && $install; }; }; }; then
        echo "missing: chromium, so the tests of pages will fail" >&2
        echo "  install it with: apt-get install chromium" >&2
    fi
fi

# The ACME test server that the tests of `[identity.acme]` run against. Nothing
# else needs it, so that it may be missing.
tools="${CARGO_TARGET_DIR:-target}/tools"
if ! command -v pebble >/dev/null && [ ! -x "$tools/pebble/usr/bin/pebble" ]; then
    echo "fetching pebble, an ACME test server, into $tools"
    mkdir -p "$tools/pebble"
    if (cd "$tools" && { apt-cache show pebble >/dev/null 2>&1 || apt-get update -qq; } && apt-get download -qq pebble && dpkg-deb -x pebble_*.deb pebble && rm pebble_*.deb); then
        echo "fetched"
    else
        echo "missing: pebble, so the tests of ACME will fail" >&2
        echo "  install it with: apt-get install pebble" >&2
    fi
fi
