# Two commands do all the set-up: `make demo` and `make test`. Everything is installed into a cache outside the checkout
# (see setup/env.sh); a second run starts in seconds. Talk goes to stderr, so `make -s demo ARGS="--json --exit"` prints one line.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.SILENT:
.PHONY: demo test bench evidence lint up help

ENV := . setup/env.sh;
BIN := "$$CARGO_TARGET_DIR/release/spawn"

help: ## What there is
	grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo: ## Run the main job on real samples (ARGS="--json --exit" are handed through)
	setup/install
	$(ENV) cargo build --release --workspace >&2; setup/with-services $(BIN) demo $(ARGS)

test: ## Format, lints, unit and integration tests with real services, documentation
	setup/install
	setup/test

lint: ## Format and lints only
	$(ENV) cargo fmt --all --check && cargo clippy --release --workspace --all-targets -- -D warnings

bench: ## Measure ours and the peers in turn: make bench [AREA=image-prepare]
	setup/install
	$(ENV) cargo build --release --workspace >&2; setup/proof bench "$(AREA)"

evidence: ## Run the long proofs: make evidence AREA=delivery [ARGS="--part zombie --scale 0.1"]
	setup/install
	$(ENV) cargo build --release --workspace >&2; setup/proof evidence "$(AREA)" $(ARGS)

up: ## Services, worker and API until Ctrl-C
	setup/install
	$(ENV) cargo build --release --workspace >&2; setup/with-services setup/up
