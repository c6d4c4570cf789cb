# Two commands on a fresh machine: `make demo` and `make test`. Both make a virtual environment of their own first.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test quick lint docs install clean

demo: install ## sample data, teacher, distilled student, validation, detection, export: one table at the end
	$(RUN) -m benchmarks.demo

test: install ## the tests; `$(RUN) -m pytest -m real` for those that need the research data
	$(RUN) -m pytest -q -n auto --dist worksteal

quick: install ## unit and contract tests without the long ones, in a minute and a half
	$(RUN) -m pytest -q -n auto --dist worksteal -m 'not real and not slow and not long' tests/unit tests/contract

lint: $(VENV)/dev ## ruff and mypy, as configured in pyproject.toml
	$(RUN) -m ruff check
	$(RUN) -m mypy

docs: install ## docs/ as a web site in runs/docs
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	$(RUN) -m mkdocs build --quiet --strict

install: $(VENV)/installed

$(VENV)/installed: requirements.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean: ## what the commands above made; runs and data sets of yours stay
	rm -rf $(VENV) runs/demo datasets/sample
