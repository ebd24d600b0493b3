# The targets for users, developers and CI. Each target installs the tools that it needs on a Debian machine
# with Rust and gcc: system packages by apt, npm packages by the lock file, Rust tools by cargo.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo quick test test-rust fuzz soak figures deploy-test bench scale fleet instructions lint deb docs rules sbom licences advisories build-tools test-tools fuzz-tools deploy-tools \
  sdk-packages browser-packages bench-tools deploy-requirements

NEXTEST := 0.9.143
CARGO_DEB := 3.8.0
CARGO_DENY := 0.20.2
CYCLONEDX := 0.5.9
FUZZ := 0.13.2
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Tools for the tests of deploy/ that are not installed on the machine: Python packages, Prometheus.
DEPLOY_TOOLS := $(TARGET)/deploy-tools
# Where the bill of materials and the licences go.
SUPPLY := $(TARGET)/supply
# The programs beside which the gateway is measured.
BENCH_PEERS := $(TARGET)/bench/peers
BENCH_PACKAGES := nginx libnginx-mod-http-lua libnginx-mod-http-ndk libluajit-5.1-2 libluajit2-5.1-2 libpcre3 lua-resty-core \
  lua-resty-lrucache lua-cjson haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
# Seconds for each fuzz target: by `make fuzz`, and by `make test`.
FUZZ_SECONDS := 20
TEST_FUZZ_SECONDS := 3
# The duration of the soak, and its build profile: load figures need a release build.
SOAK_SECONDS := 600
SOAK_PROFILE := release
# The tests that report the figures of docs/THREAT-MODEL.md, their build profile, and the duration of the SLAS outage in them. (An empty
# `$(eval)` before a space makes it an argument, below.)
FIGURE_TESTS := \
  on_behalf::concurrent_first_requests_share_one_slas_call \
  on_behalf::thousand_first_requests_at_two_gateways_share_one_slas_call \
  sessions::concurrent_requests_with_expiring_token_cause_one_refresh \
  outages::slas_outage_causes_one_attempt_a_second_and_spares_valid_tokens \
  limits::waiting_logins_are_limited_and_others_rejected_immediately \
  slas_rate_limits::slas_429_is_repeated_without_calls_until_retry_after \
  jwks::rotations::key_rotation_is_not_delayed_by_earlier_made_up_key_ids \
  jwks::outages::gateway_started_during_outage_is_ready_soon_after_recovery \
  faults::unknown_key_during_jwks_fault_returns_503 \
  slow_clients::slow_connections_do_not_affect_other_clients \
  floods:: \
  limits::goodput_holds_at_twice_the_capacity_and_excess_is_rejected_quickly \
  limits::upstream_failures_are_not_amplified_by_retries \
  resource_exhaustion::exhausted_descriptors_stop_service_only_while_exhausted \
  resource_exhaustion::unread_log_does_not_delay_requests \
  resource_exhaustion::full_disk_does_not_stop_logins_and_audit_lines_are_written_later \
  faults::clock:: \
  limits::thousand_password_guesses_of_one_address_are_stopped_before_slas \
  framing::body_in_any_framing_is_one_request_to_http_1_upstream \
  framing::body_in_any_framing_is_one_request_to_http_2_upstream \
  races:: \
  address_limits::flood_from_one_address_does_not_stop_logins_and_refreshes_of_others \
  memory::
FIGURES_PROFILE := release
OUTAGE_SECONDS := 60
# The gateway has no unsafe code, so no sanitizer; checks of overflow and of assertions are on.
FUZZ_BUILD := --fuzz-dir . --dev --sanitizer none
# The fuzzer's flags need a nightly compiler, or RUSTC_BOOTSTRAP. A separate target directory, because a change of RUSTC_BOOTSTRAP
# runs the build scripts of common crates again.
CARGO_FUZZ := RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(TARGET)/fuzz cargo fuzz
# The commit in `/status` and `build_info` of a package.
COMMIT = $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
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

# $(call tool,crate,version) installs a missing subcommand of cargo. Their common dependencies are built once, and without
# optimization: the tools run for seconds, and optimizing them takes minutes.
define tool
	@cargo $(1:cargo-%=%) --version >/dev/null 2>&1 || { \
	  echo "Installing $(1) $(2)"; CARGO_TARGET_DIR="$(TARGET)/tools" CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --quiet $(1) --version $(2); }
endef

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 28

demo: build-tools ## Start a simulated Salesforce and the gateway, run sample calls, stay up until Ctrl-C
	$(call apt,curl:curl)
	@echo "Building the gateway and the simulator (a first build takes some minutes)"
	cargo build --workspace --bins --example demo
	@cargo run --quiet --example demo -- $(DEMO_ARGS)

quick: build-tools ## Check format and lints, and run the unit tests and the checks of layers, in about two minutes
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo nextest run --workspace --lib --test layers --test config_docs

test: lint test-rust ## Run every test and check; CI runs these parts side by side
	$(MAKE) --no-print-directory deploy-test
	$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=$(TEST_FUZZ_SECONDS)
	$(MAKE) --no-print-directory instructions

test-rust: build-tools test-tools sdk-packages browser-packages ## Run the Rust tests and the examples in the documentation comments
	cargo nextest run --workspace
	cargo test --workspace --doc --quiet

deploy-test: build-tools test-tools deploy-tools ## Check deploy/ with the tools that use it: Prometheus, dpkg, systemd, kustomize, ...
	cargo build --workspace --bins --quiet
	cargo test --workspace --no-run --quiet
	PATH="$(DEPLOY_TOOLS)/bin:$$PATH" BINARIES="$(TARGET)/debug" \
	  "$(DEPLOY_TOOLS)/bin/python" -W error::ResourceWarning -m unittest discover -s tests/operations

lint: build-tools ## Check format, lints and documentation links
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fuzz: build-tools fuzz-tools ## Fuzz each parser of untrusted input for FUZZ_SECONDS
	cd fuzz && $(CARGO_FUZZ) build $(FUZZ_BUILD)
	@cd fuzz && for target in $$($(CARGO_FUZZ) list --fuzz-dir .); do \
	  echo "Fuzzing $$target for $(FUZZ_SECONDS) s"; mkdir -p corpus/$$target; \
	  $(CARGO_FUZZ) run $(FUZZ_BUILD) $$target corpus/$$target seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -max_len=4096 \
	    >corpus/$$target.log 2>&1 || { tail -n 40 corpus/$$target.log; exit 1; }; \
	done

soak: build-tools $(BENCH_PEERS)/.unpacked ## Run gateways under load with injected faults for SOAK_SECONDS, and judge the figures
	$(call apt,redis-server:redis-server)
	cargo build --profile $(SOAK_PROFILE) --bin shopper-gateway --example soak
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_ONLY=$(SOAK_ONLY) BENCH_PEERS="$(BENCH_PEERS)" "$(TARGET)/$(if $(filter dev,$(SOAK_PROFILE)),debug,$(SOAK_PROFILE))/examples/soak"

figures: build-tools test-tools ## Run the tests with figures at full scale, one at a time, and show the figures
	@FULL_SCALE=1 OUTAGE_SECONDS=$(OUTAGE_SECONDS) cargo nextest run --cargo-profile $(FIGURES_PROFILE) --test gateway \
	  --no-capture --no-fail-fast -E 'test(/^($(subst $(eval) ,|,$(strip $(FIGURE_TESTS))))/)' \
	  | sed -n 's/.*figure \(R[0-9]*\): /\1\t/p' | sort -s -V -k 1,1 | expand -t 6

bench: build-tools bench-tools ## Measure the hot path, and the gateway beside other proxies
	cargo build --profile plain -p pass-through
	cargo build --release -p pass-through --features tuned
	cargo bench --bench hot_path
	BENCH_PEERS="$(BENCH_PEERS)" cargo bench --bench round_trips

scale: build-tools ## Measure how cost and memory grow with tokens, sessions, routes and threads
	cargo bench --bench hot_path -- scale

fleet: build-tools ## Measure the cost of sessions in Redis, and calculate it for a fleet
	$(call apt,redis-server:redis-server redis-cli:redis-tools python3:python3)
	cargo build --workspace --bins --quiet
	python3 benches/fleet.py --binaries "$(TARGET)/debug" $(FLEET_ARGS)

instructions: build-tools ## Compare the instructions of a request with the baseline; WRITE=1 writes a new baseline
	$(call apt,valgrind:valgrind)
	$(if $(WRITE),WRITE_INSTRUCTIONS=1) cargo bench --bench round_trips -- instructions

deb: build-tools ## Make the Debian package, in target/debian
	$(call tool,cargo-deb,$(CARGO_DEB))
	SHOPPER_GATEWAY_COMMIT="$(COMMIT)" cargo build --release --locked --bin shopper-gateway
	deploy/debian/manual.sh "$(TARGET)/release/shopper-gateway"
	cargo deb --locked --no-build

docs: build-tools ## Write the tables of docs/CONFIGURATION.md from the types
	WRITE_CONFIGURATION_PAGE=1 cargo test --quiet --test config_docs page_matches_schema

rules: ## Write the rules of deploy/prometheus to deploy/kubernetes
	deploy/prometheus/prometheus-rule.sh > deploy/kubernetes/components/monitoring/prometheus-rule.yaml

sbom: ## Write the bill of materials (CycloneDX), in target/supply
	$(call tool,cargo-cyclonedx,$(CYCLONEDX))
	@mkdir -p "$(SUPPLY)"
	cargo cyclonedx --quiet --format json --spec-version 1.5
	@mv shopper-gateway.cdx.json simulator/salesforce-simulator.cdx.json "$(SUPPLY)"
	@rm -f benches/pass_through/pass-through.cdx.json

licences: ## Check the licences of all dependencies, and list them in target/supply
	$(call tool,cargo-deny,$(CARGO_DENY))
	@mkdir -p "$(SUPPLY)"
	@cargo fetch --locked --quiet
	cargo deny --offline --log-level error check licenses bans sources
	@cargo deny --offline list --layout license --format json > "$(SUPPLY)/licences.json"

advisories: ## Check all dependencies against the RustSec database, over the network
	$(call tool,cargo-deny,$(CARGO_DENY))
	cargo deny --log-level error check advisories

build-tools:
	$(call apt,cmake:cmake make:make gcc:gcc g++:g++)

test-tools:
	$(call apt,redis-server:redis-server node:nodejs npm:npm curl:curl openssl:openssl chromium:chromium man:man-db groff:groff-base)
	$(call tool,cargo-nextest,$(NEXTEST))

deploy-tools: $(DEPLOY_TOOLS)/.installed $(DEPLOY_TOOLS)/bin/prometheus
	$(call apt,systemd-analyze:systemd docker-compose:docker-compose readelf:binutils)
	$(call tool,cargo-deb,$(CARGO_DEB))
	$(call tool,cargo-deny,$(CARGO_DENY))
	$(call tool,cargo-cyclonedx,$(CYCLONEDX))

$(DEPLOY_TOOLS)/.installed: tests/operations/requirements.txt
	$(call apt,python3:python3)
	@python3 -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; }
	@echo "Installing the Python packages of tests/operations"
	python3 -m venv "$(DEPLOY_TOOLS)"
	"$(DEPLOY_TOOLS)/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Unpacked, not installed: Debian's package would start a Prometheus on this machine.
$(DEPLOY_TOOLS)/bin/prometheus: | $(DEPLOY_TOOLS)/.installed
	@echo "Unpacking Prometheus (apt)"
	@mkdir -p "$(DEPLOY_TOOLS)/prometheus"
	cd "$(DEPLOY_TOOLS)/prometheus" && { apt-get download -qq prometheus || { $(SUDO) apt-get update -qq && apt-get download -qq prometheus; }; } \
	  && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb
	@ln -sf ../prometheus/usr/bin/promtool ../prometheus/usr/bin/prometheus "$(DEPLOY_TOOLS)/bin/"

deploy-requirements: deploy-tools ## Pin the packages of tests/operations/requirements.in again
	"$(DEPLOY_TOOLS)/bin/pip" install --quiet pip-tools
	"$(DEPLOY_TOOLS)/bin/pip-compile" --quiet --upgrade --generate-hashes --strip-extras --no-header \
	  --output-file tests/operations/requirements.txt tests/operations/requirements.in

bench-tools: $(BENCH_PEERS)/.unpacked benches/round_trips/pwa-kit/node_modules/.installed
	$(call apt,node:nodejs npm:npm openssl:openssl taskset:util-linux chromium:chromium)

# Unpacked, not installed: Debian's packages would start servers on this machine.
$(BENCH_PEERS)/.unpacked:
	@echo "Unpacking nginx, its Lua and HAProxy (apt)"
	@mkdir -p "$(BENCH_PEERS)"
	cd "$(BENCH_PEERS)" && { apt-get download -qq $(BENCH_PACKAGES) || { $(SUDO) apt-get update -qq && apt-get download -qq $(BENCH_PACKAGES); }; } \
	  && for package in *.deb; do dpkg-deb --extract "$$package" .; done && rm -- *.deb
	@touch $@

benches/round_trips/pwa-kit/node_modules/.installed: benches/round_trips/pwa-kit/package.json benches/round_trips/pwa-kit/package-lock.json
	@echo "Installing PWA Kit's runtime (npm)"
	cd benches/round_trips/pwa-kit && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

fuzz-tools:
	@cargo fuzz --version >/dev/null 2>&1 || { \
	  echo "Installing cargo-fuzz $(FUZZ)"; cargo install --locked --quiet cargo-fuzz --version $(FUZZ); }

sdk-packages: tests/sdk/node_modules/.installed

tests/sdk/node_modules/.installed: tests/sdk/package.json tests/sdk/package-lock.json
	@echo "Installing the SDK clients (npm)"
	cd tests/sdk && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

browser-packages: tests/browser/node_modules/.installed

tests/browser/node_modules/.installed: tests/browser/package.json tests/browser/package-lock.json
	@echo "Installing the packages of web pages (npm)"
	cd tests/browser && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
