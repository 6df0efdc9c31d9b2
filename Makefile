# `make demo` and `make test` set up what they need; the other targets are for working on the project.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished

# Worth nothing where the environment was moved, or where the Python it was made from is gone.
READY := $(shell test -x $(PY) && test "$$(cat $(STAMP) 2>/dev/null)" = '$(CURDIR)' && echo yes)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Pyright comes whole with its package: it is not to look for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo picture tutorials test test-slow lint format bench bench-nuts bench-vi \
	bench-kronecker bench-amortized lock clean force

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  */\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-15s %s\n' "$$target" "$$text"; done

env: $(STAMP)  ## make .venv, and nothing else

# What was killed half-way stays marked as unfinished and is made anew; where pip itself gives up, it
# leaves things as they were, and the next run goes on from there.

$(STAMP): requirements.lock pyproject.toml $(if $(READY),,force)
	@set -eu; \
	fits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))'; \
	if [ -e $(UNFINISHED) ] || ! $(PY) -c "import pip; $$fits" >/dev/null 2>&1; then \
		python=; \
		for candidate in python3 python3.12 python3.13 python3.14; do \
			if "$$candidate" -c "$$fits" >/dev/null 2>&1; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo 'bayes needs Python 3.12 or later, with its venv module; none was found as python3, python3.12, python3.13 or python3.14. Install one, put it on PATH and run make again.' >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$python" --version) ..."; \
		rm -rf $(VENV); mkdir $(VENV); touch $(UNFINISHED); \
		"$$python" -m venv $(VENV); \
	fi; \
	touch $(UNFINISHED); rm -f $(STAMP); \
	echo 'Installing what requirements.lock lists ...'; \
	$(PY) -m pip install --quiet --require-hashes -r requirements.lock || failed=yes; \
	rm $(UNFINISHED); [ -z "$${failed-}" ] || exit 1; \
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .; \
	printf '%s\n' '$(CURDIR)' > $(STAMP)

force:

demo: $(STAMP)  ## fit the radon model to its data; posterior and report go to results/
	@mkdir -p results
	.venv/bin/python -m bayes fit models/radon.py --reparam auto --save results/radon.zarr \
		--report results/radon.html

picture: demo  ## draw the README's picture of the demo's report, with Chromium
	@mkdir -p docs
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1450 \
		--screenshot=docs/report.png "file://$(CURDIR)/results/radon.html" 2>/dev/null

tutorials: $(STAMP)  ## run the tutorials; their pictures go to results/tutorials/
	@set -e; for tutorial in tutorials/*.py; do echo "== $$tutorial"; $(PY) "$$tutorial"; done

# A worker a core, four at most: each one loads and compiles for itself. Neighbours share what they
# compiled, so each worker takes a run of tests and steals from the others' only when it is idle.
PYTEST := $(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(STAMP)  ## run the tests; ARGS="-k nuts -n 0" goes to pytest
	$(PYTEST) $(ARGS)

test-slow: $(STAMP)  ## run the long checks
	$(PYTEST) -m slow $(ARGS)

lint: $(STAMP)  ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

format: $(STAMP)  ## put the code in order: imports, layout, what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP)  ## compare with reference posteriors: make bench DATA=folder
	@test -n '$(DATA)' || { echo 'Say where the reference posteriors are: make bench DATA=path/to/posteriordb' >&2; exit 2; }
	$(PY) benchmarks/posteriordb.py --data '$(DATA)' $(ARGS)

bench-nuts: $(STAMP)  ## time NUTS beside other samplers: make bench-nuts ARGS="--only schools --seeds 1"
	$(PY) benchmarks/nuts.py $(if $(DATA),--data '$(DATA)') $(ARGS)

bench-vi: $(STAMP)  ## approximations side by side: make bench-vi DATA=folder
	$(PY) benchmarks/vi.py $(if $(DATA),--data '$(DATA)') $(ARGS)

bench-kronecker: $(STAMP)  ## Kronecker sparse Bayesian learning beside peers: make bench-kronecker ARGS=paper
	$(PY) benchmarks/kronecker_sbl.py $(if $(ARGS),$(ARGS),all)

bench-amortized: $(STAMP)  ## amortized posteriors beside exact ones: make bench-amortized DATA=folder ARGS=sbibm
	$(PY) benchmarks/amortized.py $(if $(ARGS),$(ARGS),inverse-gamma) $(if $(DATA),--data '$(DATA)')

# The one that pip uses, where pip was told of one.
INDEX = $$(printf '%s' "$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null)}")

lock: $(STAMP)  ## write requirements.lock from pyproject.toml; ARGS=--upgrade for newer versions
	@test -x build/uv/bin/uv || { $(PY) -m venv build/uv && build/uv/bin/python -m pip install --quiet uv; }
	@index="$(INDEX)"; if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	build/uv/bin/uv pip compile pyproject.toml --quiet --extra dev --generate-hashes --universal \
		--python $(PY) --python-version 3.12 --no-annotate --no-header -o requirements.lock $(ARGS)

clean:  ## remove all that make has made, but for results/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find bayes models tests benchmarks tutorials -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
