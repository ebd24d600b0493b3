# What a newcomer, a developer and CI call. Each target installs what it needs on a Debian machine
# with Rust and gcc: system packages by apt, npm packages by the lock file, Rust tools by cargo.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test fuzz bench lint build-tools test-tools fuzz-tools sdk-packages

NEXTEST := 0.9.143
FUZZ := 0.13.2
# Seconds for each fuzz target: by `make fuzz`, and by `make test`.
FUZZ_SECONDS := 20
TEST_FUZZ_SECONDS := 3
# The gateway has no unsafe code, so no sanitizer; checks of overflow and of assertions are on.
FUZZ_BUILD := --fuzz-dir . --dev --sanitizer none
# The fuzzer's flags want a nightly compiler, or a stable one that is told to take them. A folder of its own, because the
# build scripts of common crates run again when that word changes.
CARGO_FUZZ := RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/fuzz cargo fuzz
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# $(call apt,command:package …) installs the packages whose command is missing.
define apt
	@missing=""; for pair in $(1); do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "Installing$$missing (apt)"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 16

demo: build-tools ## Start a simulated Salesforce and the gateway, run sample calls, stay up until Ctrl-C
	$(call apt,curl:curl)
	@echo "Building the gateway and the simulator (a first build takes some minutes)"
	cargo build --example demo
	@cargo run --quiet --example demo -- $(DEMO_ARGS)

test: build-tools test-tools sdk-packages lint ## Run every test and check
	cargo nextest run --workspace
	cargo test --workspace --doc --quiet
	$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=$(TEST_FUZZ_SECONDS)

lint: build-tools ## Check format, lints and documentation links
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fuzz: build-tools fuzz-tools ## Feed each parser with nonsense, FUZZ_SECONDS each
	cd fuzz && $(CARGO_FUZZ) build $(FUZZ_BUILD)
	@cd fuzz && for target in $$($(CARGO_FUZZ) list --fuzz-dir .); do \
	  echo "Fuzzing $$target for $(FUZZ_SECONDS) s"; mkdir -p corpus/$$target; \
	  $(CARGO_FUZZ) run $(FUZZ_BUILD) $$target corpus/$$target seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -max_len=4096 \
	    >corpus/$$target.log 2>&1 || { tail -n 40 corpus/$$target.log; exit 1; }; \
	done

bench: build-tools ## Measure the hot path
	cargo bench --bench hot_path

build-tools:
	$(call apt,cmake:cmake make:make gcc:gcc g++:g++)

test-tools:
	$(call apt,redis-server:redis-server node:nodejs npm:npm curl:curl openssl:openssl)
	@cargo nextest --version >/dev/null 2>&1 || { \
	  echo "Installing cargo-nextest $(NEXTEST)"; cargo install --locked --quiet cargo-nextest --version $(NEXTEST); }

fuzz-tools:
	@cargo fuzz --version >/dev/null 2>&1 || { \
	  echo "Installing cargo-fuzz $(FUZZ)"; cargo install --locked --quiet cargo-fuzz --version $(FUZZ); }

sdk-packages: tests/sdk/node_modules/.installed

tests/sdk/node_modules/.installed: tests/sdk/package.json tests/sdk/package-lock.json
	@echo "Installing the SDK clients (npm)"
	cd tests/sdk && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
