# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test slow science gpu lint types layers check benchmarks clean

$(BIN)/raynas: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev,onnx]'
	@touch $@

demo: $(BIN)/raynas          ## search on the embedded digits, about two minutes
	$(BIN)/raynas run --space nasbench201:channels=8,cells=1 --data digits \
	    --search evolution --scheduler asha --samples 24 --epochs 8 --name demo

# Two processes; one of them has all tests that need a cluster (tests/conftest.py).
PYTEST := $(BIN)/pytest -q --numprocesses 2

test: $(BIN)/raynas          ## the default tests
	$(PYTEST) -m "not slow"

slow: $(BIN)/raynas          ## long runs
	$(PYTEST) -m slow || test $$? -eq 5   # 5: no test carries the mark

# A folder of published tables: nb201, nasbench_macro, ecnas_nb101_4epoch, nats_curves_3arch, nats_sss,
# spikenas_cifar10, and of images: cifar10-train, all .parquet.
TABLES  ?= tables
IMAGES  := parquet:$(TABLES)/cifar10-train.parquet
NB201   := --table $(TABLES)/nb201.parquet
RESULTS := build/science
FLAT    := $(BIN)/python -m benchmarks.neighborhood
C10     := --metric c10_valid_12 --report c10_test_200

science: $(BIN)/raynas       ## the tables of the docs, measured again; hours
	@test -e $(TABLES)/nb201.parquet || { echo "say where the tables are: make science TABLES=FOLDER"; exit 1; }
	mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.proxies --tables $(TABLES) --images $(IMAGES) --scores $(RESULTS)/scores
	$(BIN)/raynas score --space nasbench201 --data $(IMAGES) --samples 2000 --to $(RESULTS)/naswot.parquet
	$(BIN)/python -m benchmarks.area $(NB201) --scores $(RESULTS)/naswot.parquet
	$(BIN)/python -m benchmarks.auto $(NB201)
	$(BIN)/python -m benchmarks.auto $(NB201) --cells
	$(BIN)/python -m benchmarks.auto $(NB201) --search auto:prior=structure --queries 50
	$(BIN)/python -m benchmarks.fidelities --tables $(TABLES)
	$(BIN)/python -m benchmarks.surrogate $(NB201)
	$(BIN)/python -m benchmarks.constraints $(NB201) --search random evolution
	$(BIN)/python -m benchmarks.constraints $(NB201) --search auto --runs 50 --queries 40
	$(BIN)/python -m benchmarks.differentiable search $(NB201) --images $(IMAGES),fraction=0.5 --results $(RESULTS)/searches
	$(BIN)/python -m benchmarks.differentiable sizes --images $(IMAGES),size=8,fraction=0.1 --results $(RESULTS)/sizes
	for table in "nasbench_macro mean_acc" "nats_sss c10_valid_90"; do set -- $$table; \
	    for queries in 20 40 80 150 300; do \
	        $(BIN)/raynas bench --table $(TABLES)/$$1.parquet --architecture arch --metric $$2 \
	            --search auto,evolution,local --queries $$queries --runs 50 --figure $(RESULTS)/$$1-$$queries.png || exit; \
	    done; \
	done
	$(FLAT) $(NB201) $(C10)
	$(FLAT) $(NB201) --metric c100_valid_12 --report c100_test_200
	$(FLAT) $(NB201) $(C10) --only racing --other local --runs 200
	$(FLAT) --table $(TABLES)/nasbench_macro.parquet --metric test_acc_0 \
	    --report "(test_acc_1 + test_acc_2) / 2" --only racing --runs 200
	$(FLAT) --table $(TABLES)/nats_sss.parquet --metric c100_valid_90 --report c10_valid_90 \
	    --only racing --runs 200
	$(FLAT) --table $(TABLES)/spikenas_cifar10.parquet --metric valid_acc --report test_acc \
	    --where "epochs == 100" --only racing --runs 200
	$(BIN)/python -m benchmarks.stratified --tables $(TABLES)
	$(BIN)/python -m benchmarks.width train --images $(IMAGES),size=16,fraction=0.125,validation_fraction=0.02 --results $(RESULTS)/width
	$(BIN)/python -m benchmarks.width landscape --results $(RESULTS)/width
	$(BIN)/python -m benchmarks.width show --results $(RESULTS)/width --figure $(RESULTS)/width.png
	$(BIN)/python -m benchmarks.adanet
	$(BIN)/python -m benchmarks.ensemble digits $(RESULTS)/ensembles --samples 24 --epochs 12 --seeds 5
	$(BIN)/python -m benchmarks.weight_sharing micro64 --images $(IMAGES),size=16,fraction=0.08,validation_fraction=0.02 --results $(RESULTS)/micro64.parquet
	$(BIN)/python -m benchmarks.weight_sharing nasbench201 --images $(IMAGES),size=16,fraction=0.378 $(NB201)

gpu: $(BIN)/raynas          ## what only a GPU can show; at most nine minutes on one
	$(BIN)/python -m benchmarks.gpu --to docs/gpu.md --minutes 7

lint: $(BIN)/raynas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/raynas
	$(BIN)/mypy

layers: $(BIN)/raynas
	$(BIN)/lint-imports

check: lint types layers test

benchmarks: $(BIN)/raynas
	for name in data naswot orchestration saep simulate spaces startup supernet supernet_actor surface; do $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) build *.egg-info
