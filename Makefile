# What a newcomer, a developer and CI call. Each target installs what it needs on a Debian machine
# with Rust and gcc: system packages by apt, npm packages by the lock file, Rust tools by cargo.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test bench lint build-tools test-tools sdk-packages

NEXTEST := 0.9.143
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

lint: build-tools ## Check format, lints and documentation links
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

bench: build-tools ## Measure the hot path
	cargo bench --bench hot_path

build-tools:
	$(call apt,cmake:cmake make:make gcc:gcc g++:g++)

test-tools:
	$(call apt,redis-server:redis-server node:nodejs npm:npm curl:curl openssl:openssl chromium:chromium man:man-db groff:groff-base)
	@cargo nextest --version >/dev/null 2>&1 || { \
	  echo "Installing cargo-nextest $(NEXTEST)"; cargo install --locked --quiet cargo-nextest --version $(NEXTEST); }

sdk-packages: tests/sdk/node_modules/.installed

tests/sdk/node_modules/.installed: tests/sdk/package.json tests/sdk/package-lock.json
	@echo "Installing the SDK clients (npm)"
	cd tests/sdk && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
