# `make help` lists what there is. PROFILE is cargo's. dev is optimised enough to serve (dependencies at level 2) and is
# what all checks use, so that the dependencies are compiled once; `make build` alone defaults to release, because
# that binary is the one to keep.
PROFILE ?= dev
CERTS_DIR ?= $(HOME)/certs
ARGS ?=
export CERTS_DIR

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test lint e2e conformance simulate faults demo crash bench hostile cleanup build setup-certs check-remote-pull up down nightly rust dist cargo-deny

need := ops/need.sh
deny_version := 0.20.2
cargo_flags = --locked --profile $(PROFILE)
target_dir := $(or $(CARGO_TARGET_DIR),target)
profile_dir = $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
compose = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t20

rust:
	@$(need) cargo=rustup cc=gcc

run: rust ## Compile and start the server on 127.0.0.1:8081, no configuration needed (ARGS="--data-dir DIR")
	cargo run $(cargo_flags) -- serve $(ARGS)

test: rust ## Run every test that needs neither root nor network
	@$(need) script=bsdutils
	cargo test --locked --no-fail-fast --features planted-bugs

lint: rust cargo-deny ## Check format, clippy, licences, sources and banned crates
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	cargo deny --locked check bans licenses sources

cargo-deny: rust
	@cargo deny --version 2>/dev/null | grep -qF $(deny_version) \
		|| cargo install --locked cargo-deny --version $(deny_version)

e2e: dist ## Run the end-to-end tests: real clients, nginx, a real registry (root, Go; installs what they need)
	@$(need) nginx dockerd=docker.io docker=docker.io iptables docker-compose docker-registry podman buildah skopeo \
		containerd ctr=containerd debootstrap openssl curl
	cargo test $(cargo_flags) --test hostile -- --ignored
	cargo test $(cargo_flags) --test e2e -- $(ARGS)

conformance: dist ## Run the official conformance suite of the OCI distribution-spec, and write docs/conformance.md (Go)
	ops/conformance.sh target/dist/binaryrepo

# Each run begins with another seed; it prints which, and SIM_BASE repeats it.
simulate: rust ## Ten million random schedules of the coordinator (SIM_SEED=N replays one)
	SIM_SCHEDULES=$${SIM_SCHEDULES:-10000000} SIM_BASE=$${SIM_BASE:-$$(date +%s)000000000} \
		cargo test --locked --features planted-bugs --test simulation -- --nocapture

# Each run has another seed; it prints which, and CRASH_SEED repeats its choices.
crash: rust ## Kill a real server 300 times while clients pull and push, and look at what it promised (CRASH_ROUNDS=N)
	CRASH_ROUNDS=$${CRASH_ROUNDS:-300} cargo test --locked --features planted-bugs --test crash -- --nocapture

faults: rust ## Run the fault matrix and write docs/faults.md (FAULTS_CELL=C4.middle runs a part)
	FAULTS_WRITE=1 cargo test --locked --features planted-bugs --test faults -- --nocapture

hostile: rust ## Send what no client should, directly and through nginx
	@$(need) nginx
	cargo test --locked --features planted-bugs --test hostile -- --include-ignored

cleanup: rust ## Random histories of pushes, deletions and cleanups against a model, and scrubs (HISTORIES=N)
	cargo test --locked --features planted-bugs --test cleanup -- --nocapture

demo: rust ## 100 cold clients, one slow upstream, no Docker and no internet: prints who fetched what
	cargo test $(cargo_flags) --test demo -- $(ARGS)

bench: rust ## Compare with baselines measured in the same run
	@$(need) nginx
	cargo bench --locked $(ARGS)

build: ## Compile into target/dist/binaryrepo, which the Dockerfile copies (PROFILE=release)
	@$(MAKE) --no-print-directory dist PROFILE=$(if $(filter command% environment%,$(origin PROFILE)),$(PROFILE),release)

dist: rust
	cargo build $(cargo_flags) --bin binaryrepo
	@mkdir -p target/dist
	@cp $(target_dir)/$(profile_dir)/binaryrepo target/dist/binaryrepo.new
	@mv target/dist/binaryrepo.new target/dist/binaryrepo

setup-certs: ## Make a CA and a server certificate in CERTS_DIR (~/certs), and say where to trust the CA
	@$(need) openssl
	@ops/setup-certs.sh

check-remote-pull: ## Pull IMAGES twice through nginx at UPSTREAM; print both times and what was stored
	@$(need) curl
	@UPSTREAM="$(UPSTREAM)" IMAGES="$(IMAGES)" ops/check-remote-pull.sh

up: build setup-certs ## Start nginx and binaryrepo in containers
	$(compose) up -d --build
	@$(compose) ps

down: ## Stop the containers; the stored content stays in its volume
	$(compose) down

nightly: ARGS = --nightly
nightly: test lint e2e conformance simulate ## Everything, ten million schedules, 200 kills, 1000 histories of uploads, and the advisories (network)
	KILL_ROUNDS=200 UPLOAD_CASES=1000 cargo test --locked --features planted-bugs --test local -- --nocapture kill:: sessions::
	@CRASH_ROUNDS=4000 $(MAKE) --no-print-directory crash
	@HISTORIES=200000 $(MAKE) --no-print-directory cleanup
	@if git ls-remote -q https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then \
		cargo deny --locked check advisories; \
	else \
		echo "advisories not checked: github.com is not reachable from here"; \
	fi
