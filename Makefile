# Everything that is slow to get or to build, shared by all checkouts and out of reach of `make clean`.
export AOAI_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aoai-filter
# The current Envoy, fetched where none is installed, and the oldest that the module works in.
export ENVOY_VERSION ?= 1.40.0
ENVOY_OLDEST := 1.37.0

# How many inputs make fuzz gives to each parser: a minute or two for all of them.
FUZZ_CASES ?= 200000
# For how many seconds libFuzzer looks at each of its targets, in tests/fuzz/guided.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= json form url

WASM := dist/aoai_filter.wasm
AOAI := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/debug/aoai
SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')

# The tests mostly wait, so that two processes for each core pay: 7 minutes instead of 9 on two cores.
TEST_PROCESSES ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

# pytest in an Envoy: of that version, or without one whichever is here.
in-envoy = ENVOY=$$(envoy/get-envoy $(1)) && export ENVOY && "$$ENVOY" --version && \
  RATELIMIT=$$(.ci/ratelimit) && FUNC_E=$$(.ci/func-e) && NODE_MODULES=$$(.ci/npm) && \
  CRANE=$$(.ci/crane crane) && REGISTRY=$$(.ci/crane registry) && \
  PROMETHEUS=$$(.ci/prometheus prometheus) && PROMTOOL=$$(.ci/prometheus promtool) && \
  export RATELIMIT FUNC_E NODE_MODULES CRANE REGISTRY PROMETHEUS PROMTOOL && \
  AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) \
  "$$(.ci/python)" -m pytest -c tests/pytest.ini -n $(TEST_PROCESSES) --dist loadgroup

# The same in a mesh of Istio's, with a real istiod and its proxies' agent.
in-mesh = ENVOY=$$(envoy/get-envoy $(1)) && export ENVOY && "$$ENVOY" --version && \
  PILOT_DISCOVERY=$$(.ci/istio pilot-discovery) && PILOT_AGENT=$$(.ci/istio pilot-agent) && \
  ISTIOCTL=$$(.ci/istio istioctl) && ISTIO_BOOTSTRAP=$$(.ci/istio bootstrap) && \
  RATELIMIT=$$(.ci/ratelimit) && CRANE=$$(.ci/crane crane) && REGISTRY=$$(.ci/crane registry) && \
  export PILOT_DISCOVERY PILOT_AGENT ISTIOCTL ISTIO_BOOTSTRAP RATELIMIT CRANE REGISTRY && \
  AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) \
  "$$(.ci/python)" -m pytest -c tests/pytest.ini -n auto --dist loadgroup tests/istio

# The same at a real Envoy Gateway, which listens at ports of its own choice: in a network of its own, where the kernel
# lets it have one.
in-envoy-gateway = ENVOY=$$(envoy/get-envoy $(1)) && export ENVOY && "$$ENVOY" --version && \
  ENVOY_GATEWAY=$$(.ci/envoy-gateway controller) && \
  ENVOY_GATEWAY_DEFINITIONS=$$(.ci/envoy-gateway definitions) && RATELIMIT=$$(.ci/ratelimit) && \
  PYTHON=$$(.ci/python) && export ENVOY_GATEWAY ENVOY_GATEWAY_DEFINITIONS RATELIMIT && \
  AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) \
  $$(! unshare --net --map-root-user true 2>/dev/null || echo unshare --net --map-root-user) \
  "$$PYTHON" -m pytest -c tests/pytest.ini tests/envoy_gateway

# A scenario of tests/chaos in an Envoy.
scenario = ENVOY=$$(envoy/get-envoy) && export ENVOY && \
  AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) "$$(.ci/python)" tests/chaos $(1) $(ARGS)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this
	@printf 'aoai-filter: one key and one address in front of Azure OpenAI, inside Envoy\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: ENVOY=path/to/envoy, ENVOY_VERSION=%s (fetched if there is none), PORT=10000, CONFIG=mine.yaml, LIMITS=local or ratelimit and FAULTS=1 (make run)\n' $(ENVOY_VERSION)

.PHONY: run
run: wasm tools ## Try it with simulated Azure, or CONFIG=mine.yaml with your own (ARGS: of aoai render envoy)
	@ENVOY=$$(envoy/get-envoy) && PYTHON=$$(.ci/python) && export ENVOY && \
	  $(if $(filter ratelimit,$(LIMITS)),RATELIMIT=$$(.ci/ratelimit) && export RATELIMIT && )LIMITS=$(LIMITS) FAULTS=$(FAULTS) PORT=$(PORT) \
	  AOAI=$(AOAI) AOAI_WASM=$(WASM) CONFIG=$(CONFIG) exec "$$PYTHON" tests/run.py $(ARGS)

.PHONY: sim
sim: ## Simulated Azure alone, where envoy/envoy.yaml looks for it: next to `func-e run -c envoy/envoy.yaml`
	@PYTHON=$$(.ci/python) && exec "$$PYTHON" tests/azure-sim --identity-port 18000 \
	  --resource eastus=contoso-eastus.openai.azure.com:18001 \
	  --resource sweden=contoso-sweden.openai.azure.com:18002

.PHONY: wasm
wasm: $(WASM) ## Build the module: dist/aoai_filter.wasm

$(WASM): $(SOURCES) .ci/cargo-wasm .ci/wasm-opt
	.ci/cargo-wasm build --release --lib --locked
	@mkdir -p $(@D)
	.ci/wasm-opt "$$AOAI_CACHE/wasm/wasm32-unknown-unknown/release/aoai_filter.wasm" $@
	@printf '%s: %s bytes\n' $@ $$(wc -c < $@)

.PHONY: image
image: wasm ## Write the module as an OCI image, without a container engine: dist/image
	@PYTHON=$$(.ci/python) && digest=$$("$$PYTHON" .ci/image $(WASM) dist/image) && \
	  printf 'dist/image: %s\nPush it: crane push dist/image REGISTRY/aoai-filter:VERSION\n' "$$digest"

.PHONY: dist
dist: wasm ## Write what a release has: dist/release (the module, a static aoai, checksums, bills of materials)
	@.ci/dist $(WASM) dist/release && cd dist/release && sha256sum --check --quiet SHA256SUMS && ls -l

.PHONY: tools
tools: cargo ## Build the command-line tool: target/debug/aoai
	cargo build --locked --bin aoai

.PHONY: render
render: cargo ## Remake what is rendered: bootstraps in envoy/, golden files, tables of the documentation
	AOAI_RENDER=write cargo test --locked --test render --test documentation

.PHONY: test
test: test-native test-e2e ## Prove the project: native tests, then a real Envoy with simulated Azure

.PHONY: test-native
test-native: cargo ## The core and the tool, without Envoy
	cargo test --locked

.PHONY: test-e2e
test-e2e: wasm tools ## The module in a real Envoy (ARGS="-k name" to choose)
	@$(call in-envoy,) tests --ignore tests/istio --ignore tests/envoy_gateway $(ARGS)

# One worker or two is a question to the module, not to the version: in the oldest, two will do.
.PHONY: test-compat
test-compat: wasm tools ## As test-e2e, in the oldest Envoy that works and in the current one (or in ENVOY)
	@$(call in-envoy,$(ENVOY_OLDEST)) tests/e2e -k 'not 1-worker' $(ARGS)
	@$(call in-envoy,$(if $(ENVOY),,$(ENVOY_VERSION))) tests --ignore tests/istio --ignore tests/envoy_gateway $(ARGS)

# Where Istio cannot be built, that is a failure of CI's alone.
.PHONY: test-istio
test-istio: wasm tools ## The module in an Istio mesh, in the oldest Envoy and in the current one (builds istiod once: minutes)
	@if ! .ci/istio pilot-discovery >/dev/null && ! test "$$CI" = true; then \
	  printf '\n*** Istio could not be built: the mesh is NOT tested here ***\n\n' >&2; exit 0; fi; \
	{ $(call in-mesh,$(ENVOY_OLDEST)) -k 'not 1-worker' $(ARGS); } && \
	{ $(call in-mesh,$(if $(ENVOY),,$(ENVOY_VERSION))) $(ARGS); }

.PHONY: test-envoy-gateway
test-envoy-gateway: wasm tools ## The module by Envoy Gateway, in the oldest Envoy and in the current one (builds it once: minutes)
	@if ! .ci/envoy-gateway controller >/dev/null && ! test "$$CI" = true; then \
	  printf '\n*** Envoy Gateway could not be built: it is NOT tested here ***\n\n' >&2; exit 0; fi; \
	{ $(call in-envoy-gateway,$(ENVOY_OLDEST)) -k 'not 1-worker' $(ARGS); } && \
	{ $(call in-envoy-gateway,$(if $(ENVOY),,$(ENVOY_VERSION))) $(ARGS); }

.PHONY: dashboard
dashboard: wasm tools ## Render the dashboard by its queries, of minutes of traffic (ARGS="--picture envoy/grafana/aoai.png", Chromium)
	ENVOY=$$(envoy/get-envoy) PROMETHEUS=$$(.ci/prometheus prometheus) AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) \
	  "$$(.ci/python)" tests/dashboard $(ARGS)

.PHONY: fuzz
fuzz: cargo ## Feed every parser FUZZ_CASES inputs that are nearly right (FUZZ_SEED to repeat a run, ARGS to choose)
	@seed=$${FUZZ_SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; echo "FUZZ_SEED=$$seed FUZZ_CASES=$(FUZZ_CASES)"; \
	  PROPTEST_RNG_SEED=$$seed PROPTEST_CASES=$(FUZZ_CASES) cargo test --locked --profile fuzz --test fuzz -- $(ARGS)
	@if cargo +nightly fuzz --version >/dev/null 2>&1; then $(MAKE) --no-print-directory fuzz-guided; \
	  else echo "no nightly Rust with cargo-fuzz: without the fuzzers that coverage guides"; fi

.PHONY: fuzz-guided
fuzz-guided: cargo ## Compare the readers of bodies and URLs with others, guided by coverage (nightly Rust and cargo-fuzz)
	@for target in $(FUZZ_TARGETS); do \
	  found="$$AOAI_CACHE/fuzz/$$target" && mkdir -p "$$found" && \
	  cargo +nightly fuzz run --fuzz-dir tests/fuzz/guided --sanitizer none $$target \
	    "$$found" tests/fuzz/guided/seeds/$$target -- -dict=tests/fuzz/guided/seeds/$$target.dict \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 || exit 1; \
	done

.PHONY: lint
lint: cargo ## rustfmt and clippy (native and wasm); the rooms' borders are a native test
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	.ci/cargo-wasm clippy --release --lib --locked -- --deny warnings

.PHONY: fmt
fmt: cargo ## Format the code
	cargo fmt

.PHONY: bench
bench: wasm tools ## Measure plain Envoy, the module and Envoy's own filters side by side (ARGS="--only load,sse", ARGS=--help)
	@command -v wrk >/dev/null || .ci/apt-install wrk
	ENVOY=$$(envoy/get-envoy) RATELIMIT=$$(.ci/ratelimit) AOAI_WASM=$(CURDIR)/$(WASM) AOAI=$(AOAI) \
	  "$$(.ci/python)" tests/bench $(ARGS)

.PHONY: chaos
chaos: wasm tools ## Quiet tenants beside a noisy neighbour, in figures (ARGS="--seconds 60 --seed 1", ARGS=--help)
	@$(call scenario,neighbour)

.PHONY: soak
soak: wasm tools ## Ten minutes of failing regions and new documents, in figures (ARGS="--seconds 60 --seed 1")
	@$(call scenario,soak)

.PHONY: bench-bodies
bench-bodies: cargo ## Measure how fast bodies are read: natively, and in wasm where node is here
	cargo run --quiet --locked --release --example bodies
	.ci/cargo-wasm build --quiet --locked --release --example bodies
	@! command -v node >/dev/null || \
	  node tests/bench/bodies.mjs "$$AOAI_CACHE/wasm/wasm32-unknown-unknown/release/examples/bodies.wasm"

.PHONY: clean
clean: ## Remove what was built here (not the cache: $AOAI_CACHE)
	rm -rf target dist

# A machine without any Rust gets Debian's.
.PHONY: cargo
cargo:
	@command -v cargo >/dev/null || .ci/apt-install rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web lld-22
