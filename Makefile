# Everything a newcomer types. `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
# Where torch comes from. Empty: pip's default index. Elsewhere than on our build machines, name PyTorch's CPU index here.
TORCH_INDEX_URL ?=
BENCH ?= full

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: help setup demo test test-fast soak lint proto bench-overlap bench-policy bench-training clean

help:
	@echo "make demo            the whole story on a built-in alliance; DATA=DIR for your own"
	@echo "make test            everything CI runs: lint, contract check, all tests"
	@echo "make test-fast       unit and contract tests only"
	@echo "make soak            attacks, crashes and epochs ten times over; hours"
	@echo "make lint | proto    ruff, mypy, import-linter, buf | regenerate federation/v1"
	@echo "make bench-overlap | bench-policy | bench-training   BENCH=short for smaller sets"

$(VENV)/.demo: pyproject.toml $(wildcard federation/overlap/native/*.[ch])
	@echo "Setting up $(VENV) (once; a few minutes on a slow line)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install torch==2.13.0 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(PIP) install --editable '.[dev]'
	@touch $@

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	@$(BIN)/entente demo $(if $(DATA),--data $(DATA))

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check

proto: $(VENV)/.dev
	$(BIN)/python protos/generate.py

test-fast: $(VENV)/.dev
	$(BIN)/pytest -n 2 tests/unit tests/contract

test: lint
	$(BIN)/pytest -n 2

# What repeats by seed, in full (ENTENTE_LONG); a test's usual time limit is not meant for that.
soak: $(VENV)/.dev
	ENTENTE_LONG=1 $(BIN)/pytest -n 2 --timeout 7200 $$(grep -rlE 'environ.*ENTENTE_LONG' tests --include='test_*.py')

bench-overlap: BENCHES := overlap overlap_delta questions
bench-policy: BENCHES := policy consent
bench-training: BENCHES := training scoring $(if $(filter short,$(BENCH)),,superlink)
bench-overlap bench-policy bench-training: $(VENV)/.dev
	@BENCH=$(BENCH) $(BIN)/python tests/bench/run.py $(BENCHES)

clean:
	rm -rf $(VENV) demo-alliance bench-out
