# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test slow lint types layers check benchmarks clean

$(BIN)/raynas: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,onnx]'
	@touch $@

demo: $(BIN)/raynas          ## search on the embedded digits, about two minutes
	$(BIN)/raynas run --space nasbench201:channels=8,cells=1 --data digits \
	    --search evolution --scheduler asha --samples 24 --epochs 8 --name demo

test: $(BIN)/raynas          ## the default tests
	$(BIN)/pytest -q -m "not slow"

slow: $(BIN)/raynas          ## the science checks and long runs
	$(BIN)/pytest -q -m slow || test $$? -eq 5   # 5: no test carries the mark

lint: $(BIN)/raynas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/raynas
	$(BIN)/mypy

layers: $(BIN)/raynas
	$(BIN)/lint-imports

check: lint types layers test

benchmarks: $(BIN)/raynas
	for name in data naswot orchestration saep simulate spaces startup supernet; do $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) build *.egg-info
