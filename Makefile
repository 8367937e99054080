# Every target does its own set-up from the lock files. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
LITELLM_VENV := .venv-litellm
UV_VERSION := 0.13.8
HELM_VERSION := 4.3.1
PYTEST := $(BIN)/python -m pytest

# The first interpreter that really runs and is new enough; pyenv's shims exist but fail for
# versions that are not selected, so each candidate is tried and not only looked up.
FIND_PYTHON = for p in python3.13 python3.14 python3.12 python3 python \
	$$HOME/.pyenv/versions/3.13*/bin/python3 $$HOME/.pyenv/versions/3.1[2-9]*/bin/python3 \
	$$(uv python find '>=3.12' 2>/dev/null); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "Understudy needs Python 3.12 or newer (with venv) and found none: install it (python.org, pyenv, uv or your package manager) and run make again." >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## create .venv with everything that tests and linters need

# LiteLLM's pins would fight with the product's, so it lives apart.
$(LITELLM_VENV)/.installed: requirements-gateways.lock | $(BIN)/uv
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LITELLM_VENV)
	@$(BIN)/uv pip install --quiet --python $(LITELLM_VENV)/bin/python --require-hashes -r requirements-gateways.lock
	@touch $@

.PHONY: lock
lock: | $(BIN)/uv ## compile the lock files again
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS) pyproject.toml --group build -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS) -c requirements.lock pyproject.toml --group dev -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS) requirements-gateways.in -o requirements-gateways.lock

.PHONY: demo
demo: $(VENV)/.runtime ## see it work: offline, in a few seconds
	@$(BIN)/understudy demo

# Two for each of two cores: many tests wait, for a deadline or a linger, while others work.
TEST_PROCESSES := 4
.PHONY: test
test: $(VENV)/.dev ## the whole suite but the gateways; what starts a proxy runs on both engines
	@$(PYTEST) -n $(TEST_PROCESSES) -m "not gateway" $(PYTEST_FLAGS)

.PHONY: test-gateways
test-gateways: $(VENV)/.dev $(LITELLM_VENV)/.installed ## the SDKs through the real LiteLLM proxy, on the default engine
	@$(PYTEST) -m gateway --engine express tests/gateways $(PYTEST_FLAGS)

FUZZ_MINUTES := 5
.PHONY: fuzz
fuzz: $(VENV)/.dev ## fuzz for long: FUZZ_MINUTES (5) for each target, then ten thousand heads and answers
	@UNDERSTUDY_FUZZ_SECONDS=$$(( $(FUZZ_MINUTES) * 60 )) UNDERSTUDY_FUZZ_HEADS=10000 \
		UNDERSTUDY_FUZZ_KEPT="$(CURDIR)/.fuzz" \
		$(PYTEST) -n 2 --timeout 0 -rP tests/fuzz $(PYTEST_FLAGS)

SOAK_MINUTES := 15
.PHONY: soak
soak: $(VENV)/.dev ## everything at once for SOAK_MINUTES (15), then every request accounted for
	@$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) $(SOAK_FLAGS)

.PHONY: threat-model
threat-model: $(VENV)/.dev ## write the table of docs/threat-model.md from the tests
	@$(BIN)/python -m tests.attacks.table

.PHONY: lint
lint: $(VENV)/.dev ## ruff, ruff format, mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Only the chart's tests need helm; one that is installed already serves as well.
.PHONY: helm-tool
helm-tool: | $(BIN)/python ## put helm into .venv, built with Go (about two minutes), if there is none
	@if command -v helm >/dev/null || [ -x $(BIN)/helm ]; then exit 0; fi; \
	command -v go >/dev/null || { echo "The chart's tests need helm, or Go 1.26 to build it: install one of them." >&2; exit 1; }; \
	GOBIN="$(CURDIR)/$(BIN)" go install helm.sh/helm/v4/cmd/helm@v$(HELM_VERSION)

# Only one test needs nginx: its parser is one more that request heads are compared with. Without
# it that comparison is skipped, and the run says so.
.PHONY: nginx-tool
nginx-tool: | $(BIN)/python ## put nginx into .venv from Debian's archive, if there is none
	@if command -v nginx >/dev/null || [ -x $(BIN)/nginx ]; then exit 0; fi; \
	target="$(CURDIR)/$(BIN)/nginx"; folder="$$(mktemp -d)"; trap 'rm -rf "$$folder"' EXIT; cd "$$folder"; \
	if [ "$$(id -u)" = 0 ]; then timeout 60 apt-get -qq update >/dev/null 2>&1; fi; \
	for package in nginx nginx-light; do \
		timeout 60 apt-get -qq download "$$package" >/dev/null 2>&1 && dpkg -x "$$package"_*.deb . && [ -x usr/sbin/nginx ] && break; done; \
	if [ -x usr/sbin/nginx ] && usr/sbin/nginx -v 2>/dev/null; then cp usr/sbin/nginx "$$target"; \
	else echo "nginx could not be had: install it to compare request heads with its parser, too." >&2; fi

.PHONY: bench
bench: $(VENV)/.dev ## measure beside other proxies; writes docs/benchmarks.md
	@$(BIN)/python -m tests.benchmarks $(BENCH_FLAGS)
	@$(BIN)/python -m tests.benchmarks.roundtrip $(if $(BENCH_FLAGS),,--write)
