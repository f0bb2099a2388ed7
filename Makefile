# Works in a clean clone with Python 3.11 or newer and make; everything else is set up in .venv.

PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13 python3.14 python,\
	$(shell $(name) -c 'import sys; sys.version_info < (3, 11) or print("$(name)")' 2>/dev/null)))
VENV ?= .venv
RUN = $(VENV)/bin/python
USE_VENV = $(RUN) -m

.PHONY: demo test check e2e bench clean help

help:
	@echo "make demo   shows the main job working, against a real server in the process"
	@echo "make test   runs the tests; skips, and says so, what needs database servers that are not installed"
	@echo "make check  types, lint, import rules"
	@echo "make e2e    runs the tests against an authorization server that is not ours (needs Node.js)"
	@echo "make bench  measures, beside other libraries; BENCH_QUICK=1 to see that it works"
	@echo "make clean  removes what the others made"

demo: $(VENV)/.test
	$(RUN) examples/demo.py

test: $(VENV)/.test
	$(USE_VENV) pytest --cov --cov-report=term $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(USE_VENV) ruff format --check .
	$(USE_VENV) ruff check .
	$(USE_VENV) mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command as lint; lint()"

e2e: $(VENV)/.test
	cd tests/e2e && npm ci --no-fund --no-audit
	OAUTH2BROKER_E2E=require $(USE_VENV) pytest tests/e2e

# Sets itself up in .venv-bench, with the built wheel. BENCH_ARGS="--only hits,threads" runs some of it.
bench:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	$(PYTHON) -m benchmarks.run $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venv-bench build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf .import_linter_cache tests/e2e/node_modules

# Some systems ship venv without pip; then the pip that is there installs one.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(VENV)/bin/python install -q pip; }

$(VENV)/.test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(USE_VENV) pip install -q --disable-pip-version-check -e ".[test]"
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(USE_VENV) pip install -q --disable-pip-version-check -e ".[test,dev]"
	@touch $@
