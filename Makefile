# Needs python3 (3.11 or later) and make; everything else it installs into .venv itself.
#
#   make book  [PROFILE=cpu]    run what is out of date, build the HTML, print the page to open
#   make check [PROFILE=cpu]    run all chapters anew and compare their numbers with the baseline
#   make rehearse PROFILE=gpu   run all its chapters, trainings cut to almost nothing: does every cell run?
#   make accept PROFILE=...     accept new numbers as the baseline (clean git tree, SEEDS=3 runs)
#   make test                   pytest, with every chapter at smoke scale
#   make lab                    open the chapters in JupyterLab
#   make pins                   resolve constraints.txt anew
#   make clean | distclean      remove _build | and .venv

PROFILE ?= cpu
SEEDS ?= 3
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
BUILD := _build/$(PROFILE)
PROFILE_FILE := book/profiles/$(PROFILE).yaml

# ---- what depends on what -------------------------------------------------------------------------------
# A chapter is out of date when its source, its profile, any file of the package, the environment, or a
# chapter whose artifacts it uses is newer. The lists are files too, so that a deleted file counts.

PACKAGE := $(sort $(shell find stylemed -type f -not -path '*/__pycache__/*' -not -name '.*'))
PAGES := $(sort _config.yml _toc.yml $(shell find book -maxdepth 1 -name '*.md' -o -maxdepth 1 -name '*.bib') $(shell find book/_static book/_extra book/results -type f 2>/dev/null))
CHAPTERS := $(patsubst book/%.ipynb,%,$(sort $(wildcard book/[0-9][0-9]_*.ipynb)))
EXECUTED := $(CHAPTERS:%=$(BUILD)/executed/%.ipynb)
done = $(filter $(BUILD)/executed/$(1)_%,$(EXECUTED))

# Written while make reads this file, and only when they change.
keep_list = $(shell mkdir -p $(dir $(1)); printf '%s\n' $(2) | cmp -s - $(1) || printf '%s\n' $(2) > $(1))

ifneq ($(filter book html check accept rehearse,$(MAKECMDGOALS)),)
ifeq ($(wildcard $(PROFILE_FILE)),)
$(error unknown profile "$(PROFILE)"; there are: $(patsubst book/profiles/%.yaml,%,$(wildcard book/profiles/*.yaml)))
endif
endif
ifneq ($(filter book html,$(MAKECMDGOALS)),)
$(shell rm -f $(BUILD)/did)
$(call keep_list,_build/package.list,$(PACKAGE))
$(call keep_list,$(BUILD)/pages.list,$(PAGES) $(CHAPTERS))
# A chapter whose artifact was deleted, or made anew by hand since its run, has to run again.
lost = $(shell for e in $(call done,$(2)); do a=$(BUILD)/artifacts/$(1); r=$(BUILD)/runs/$$(basename $$e .ipynb).json; \
  if [ ! -e $$a ] || [ $$a -nt $$r ]; then rm -f $$e; fi; done)
$(call lost,store/store.json,01)
$(call lost,gan/generator.safetensors,03)
$(call lost,encoder/encoder.safetensors,04)
endif

.PHONY: help book html check accept rehearse test lab pins clean distclean

help:
	@sed -n 's/^#   //p' Makefile

# ---- environment ----------------------------------------------------------------------------------------

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV)"
	@python3 -c 'import sys; sys.exit("python3 is %s; 3.11 or later is needed" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(VENV)/bin/uv pip install -p $(PY) -c constraints.txt -e '.[book,dev]'
	@touch $@

pins:
	@rm -rf _build/pins && python3 -m venv _build/pins/tool && _build/pins/tool/bin/pip install --quiet uv
	@_build/pins/tool/bin/uv venv --quiet _build/pins/env
	@_build/pins/tool/bin/uv pip install -p _build/pins/env/bin/python -e '.[book,dev]'
	@{ head -n 1 constraints.txt; _build/pins/tool/bin/uv pip freeze -p _build/pins/env/bin/python --exclude-editable; } > _build/pins/constraints.txt
	@mv _build/pins/constraints.txt constraints.txt && rm -rf _build/pins && git diff --stat constraints.txt

# ---- book -----------------------------------------------------------------------------------------------

$(BUILD)/executed/%.ipynb: book/%.ipynb $(PROFILE_FILE) $(PACKAGE) _build/package.list $(STAMP)
	@$(PY) -m stylemed book run --profile $(PROFILE) $*
	@echo $* >> $(BUILD)/did

# Who uses whose artifacts; the same table as `chapters.USES` (a test compares them).
$(call done,03): $(call done,01)
$(call done,04): $(call done,03)
$(call done,05): $(call done,04)
$(call done,06): $(call done,04)

$(BUILD)/html/index.html: $(EXECUTED) $(PAGES) $(BUILD)/pages.list
	@$(PY) -m stylemed book html --profile $(PROFILE)
	@echo html >> $(BUILD)/did

html: book
book: $(BUILD)/html/index.html
	@if [ -e $(BUILD)/did ]; then \
	  echo "== executed: $$(grep -v '^html$$' $(BUILD)/did | paste -sd' ' | grep . || echo 'no chapter, all re-used')"; rm -f $(BUILD)/did; \
	else echo "== nothing was out of date: all $(words $(EXECUTED)) chapters and the pages were re-used"; fi
	@echo "== open $(CURDIR)/$(BUILD)/html/index.html"

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

clean:
	rm -rf _build

distclean: clean
	rm -rf $(VENV) *.egg-info
