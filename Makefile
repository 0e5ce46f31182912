# Each command is enough on a machine with Python 3.10+ and a C++ compiler:
#     make demo    trains a teacher, a student alone and a student with M-KD
#     make test    runs the tests (test-commands: those of whole commands)
# They make the environment first (scripts/setup_env.py), once.
#     make demo PYTHON=python3.12 VENV=/somewhere/else

PYTHON ?= python3
VENV ?= .venv
IN_VENV = . $(VENV)/mkd_det.env && $(VENV)/bin/python

.PHONY: demo test test-commands lint docs format env help clean

help:
	@echo "make demo    see a small detector learn from a big one"
	@echo "make test    run the tests"
	@echo "make test-commands  run those of whole commands, from end to end"
	@echo "make lint    ruff and mypy"
	@echo "make docs    build the documentation site (docs/_build/html)"
	@echo "make format  let ruff rewrite the sources"
	@echo "make env     only make the environment ($(VENV))"
	@echo "make clean   remove the environment and caches, keep work_dirs"

env:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "No $(PYTHON) here. On Debian or Ubuntu:"; \
	    echo "    sudo apt-get update && sudo apt-get install -y python3-dev python3-venv g++"; \
	    exit 1; }
	@$(PYTHON) scripts/setup_env.py --venv $(VENV)

demo: env
	@echo "Demo: three trainings on drawn digits, 7 to 13 minutes on two cores"
	@$(IN_VENV) -m mkd_det demo

test: env
	@echo "Tests: about 8 minutes on two cores"
	@$(IN_VENV) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not commands"

test-commands: env
	@echo "Whole commands, from end to end: about 4 minutes on two cores"
	@$(IN_VENV) -m pytest -n 2 --dist loadfile -m commands

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy

docs: env
	$(IN_VENV) -m sphinx -W --keep-going -q -b html docs docs/_build/html

format: env
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info mkd_det/.mim docs/_build
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
