# Needs python3 (3.11 or later) and make; everything else it installs into .venv itself.
#
#   make book  [PROFILE=cpu]    run what is out of date, build the HTML, print the page to open
#   make book DATA=FOLDER       the same on volumes of your own, in the layout of LiTS, with a model card at the end
#   make check [PROFILE=cpu]    run all chapters anew and compare their numbers with the baseline
#   make rehearse PROFILE=gpu   run all its chapters, trainings cut to almost nothing: does every cell run?
#   make accept PROFILE=...     accept new numbers as the baseline (clean git tree, SEEDS=3 runs)
#   make test                   pytest, with every chapter at smoke scale (PINS= installs the newest versions)
#   make quick                  the tests that take under a minute together, for between edits
#   make lab                    open the chapters in JupyterLab
#   make pins                   resolve constraints.txt anew
#   make clean | distclean      remove _build | and .venv

PROFILE ?= cpu
DATA = # on the command line only: many an environment has a variable of that name
SEEDS ?= 3
PINS ?= constraints.txt
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help book check accept rehearse test quick lab pins clean distclean

help:
	@sed -n 's/^#   //p' Makefile

# ---- environment ----------------------------------------------------------------------------------------

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV)"
	@python3 -c 'import sys; sys.exit("python3 is %s; 3.11 or later is needed" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PINS:%=-c %) uv
	@$(VENV)/bin/uv pip install -p $(PY) $(PINS:%=-c %) -e '.[book,dev]'
	@touch $@

pins:
	@rm -rf _build/pins && python3 -m venv _build/pins/tool && _build/pins/tool/bin/pip install --quiet uv
	@_build/pins/tool/bin/uv venv --quiet _build/pins/env
	@_build/pins/tool/bin/uv pip install -p _build/pins/env/bin/python -e '.[book,dev]'
	@{ head -n 1 constraints.txt; _build/pins/tool/bin/uv pip freeze -p _build/pins/env/bin/python --exclude-editable; } > _build/pins/constraints.txt
	@mv _build/pins/constraints.txt constraints.txt && rm -rf _build/pins && git diff --stat constraints.txt

# ---- book: what is out of date, `stylemed book` decides by content ---------------------------------------

book: $(STAMP)
	@$(PY) -m stylemed book run --profile $(PROFILE) --data '$(DATA)'
	@$(PY) -m stylemed book html --profile $(PROFILE) --data '$(DATA)'

check: $(STAMP)
	@$(PY) -m stylemed book check --profile $(PROFILE)

accept: $(STAMP)
	@$(PY) -m stylemed book accept --profile $(PROFILE) --seeds $(SEEDS)

rehearse: $(STAMP)
	@$(PY) -m stylemed book run --profile $(PROFILE) --rehearse

lab: $(STAMP)
	@$(VENV)/bin/jupyter lab book

# ---- tests ----------------------------------------------------------------------------------------------

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

quick: $(STAMP)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' $(PYTEST_ARGS)

clean:
	rm -rf _build

distclean: clean
	rm -rf $(VENV) *.egg-info
