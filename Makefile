# What people and CI run. `make help` lists the targets.

CARGO      ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
NODE       ?= .node
PLUGINS    := alknet-plugin-call alknet-plugin-echo alknet-plugin-files
DEV_PLUGINS = $(foreach name,call echo files,$(TARGET_DIR)/debug/libalknet_plugin_$(name).so) \
              $(TARGET_DIR)/wasm32-wasip2/debug/alknet_plugin_clock.wasm
COMPONENTS := alknet-plugin-clock alknet-plugin-echo alknet-plugin-conformance alknet-fixture-tree

# Every combination of the host's transports; the first is none.
TRANSPORTS := "" quinn iroh tcp quinn,iroh quinn,tcp iroh,tcp quinn,iroh,tcp
FUZZ       := $(notdir $(basename $(wildcard tests/fuzz/fuzz_targets/*.rs)))

.PHONY: help setup run build components test check fmt lint docs deny features bench fuzz clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Check for, and install, what building and testing need
	@./config/setup.sh

run: setup ## Build a node and its plugins, start it, make a call to it
	$(CARGO) build -p alknet $(PLUGINS:%=-p %)
	$(CARGO) build --target wasm32-wasip2 -p alknet-plugin-clock
	$(TARGET_DIR)/debug/alknet --node $(NODE) run --dev $(DEV_PLUGINS:%=--plugin %)

build: setup ## Build everything for development
	$(CARGO) build --all-targets

components: setup ## Build the plugins that are also WebAssembly components
	$(CARGO) build --target wasm32-wasip2 $(COMPONENTS:%=-p %)

test: setup build components ## Run every test
	$(CARGO) nextest run --no-fail-fast
	npm test --prefix plugins/call/bindings/web
	$(CARGO) test --doc

check: fmt lint docs deny features ## Format, lint, docs, licences, feature combinations

fmt: ## Check formatting
	$(CARGO) fmt --all --check

lint: setup ## Clippy, warnings denied
	$(CARGO) clippy --all-targets -- -D warnings

docs: setup ## Build the book and the API documentation, warnings denied
	$(TARGET_DIR)/python/bin/mdbook build docs --dest-dir $(abspath $(TARGET_DIR))/book
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

deny: ## Licences and advisories, where cargo-deny is installed
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; \
	else echo "skipped: cargo-deny is missing; install it with 'cargo install cargo-deny'"; fi

features: setup ## Check the feature combinations that users build
	for transports in $(TRANSPORTS); do \
	$(CARGO) check -p alknet --no-default-features --features "$$transports" || exit 1; done
	$(CARGO) check -p alknet --no-default-features --features components
	$(CARGO) check -p alknet --no-default-features --features imports
	$(CARGO) check -p alknet-vault
	$(CARGO) check -p alknet-plugin-api --target wasm32-wasip2
	$(CARGO) check -p alknet-bench

fuzz: ## Run each fuzz target for a minute, where cargo-fuzz and a nightly compiler are
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing; install it with \
	'rustup toolchain install nightly' and 'cargo install cargo-fuzz'"; exit 1; }
	for target in $(FUZZ); do \
	$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target -- -max_total_time=60 || exit 1; done

bench: setup ## Compare with gRPC, raw QUIC and axum in one run, and print the ratios
	$(CARGO) build --release -p alknet -p alknet-bench -p alknet-fixture-tree -p alknet-plugin-http $(PLUGINS:%=-p %)
	$(CARGO) build --release --target wasm32-wasip2 $(COMPONENTS:%=-p %)
	$(TARGET_DIR)/release/alknet-bench

clean: ## Remove the development node (builds stay)
	rm -rf $(NODE)
