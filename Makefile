# Every command a person types. `make` lists them; each does its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# The first Python that is new enough; choose another with `make PYTHON=/path/to/python3 ...`.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
COURSE ?= .
PORT ?= 8000
OPTIONS ?=
ENV := .venv/.made
# Nothing needs to be activated; some tools (nbgrader's alembic) are looked up on the PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Threads sleep while they wait for each other. Spinning, they cost a small network a factor of ten where anything else
# runs beside it (measured on two busy cores: 95 ms a step against 9).
export OMP_WAIT_POLICY ?= passive

.PHONY: help book serve pdf test check check-site notebooks live grade demo-class lab bench system format clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

book: $(ENV)  ## build the website, every page executed, into _build/html
	@# A failed build forgets what it read (the cache stays): else the next one, with nothing new, would look fine.
	@jupyter-book build . --toc book/_toc.yml -W -n --keep-going || { rm -rf _build/.doctrees; exit 1; }
	@pytest -q -m "site and not browser" tests/test_site*.py

serve: $(ENV)  ## show the website on localhost (PORT=8000); a page that you save is built anew
	@test -f _build/html/index.html || { echo "There is no website yet: run 'make book' first."; exit 1; }
	@python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null \
		|| { echo "Port $(PORT) is taken: try 'make serve PORT=8001'."; exit 1; }
	@echo "The website is at http://127.0.0.1:$(PORT) (stop it with Ctrl-C)."
	@python book/serve.py --port $(PORT)

pdf: $(ENV)  ## print the built website into one file, _build/course.pdf
	@test -f _build/html/index.html || { echo "There is no website yet: run 'make book' first."; exit 1; }
	@python book/pdf.py

test: $(ENV) system  ## run the tests
	@pytest -m "not site" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 20

check: $(ENV)  ## are notebooks/ in step with their sources, is the code clean?
	@python -m course_utils.authoring --check
	@ruff check .
	@ruff format --check .

check-site: $(ENV)  ## look at the built website: links, pictures, and every page in a real browser
	@test -f _build/html/index.html || { echo "There is no website yet: run 'make book' first."; exit 1; }
	@pytest -m site -n logical --maxprocesses 4 tests/test_site*.py

notebooks: $(ENV)  ## write notebooks/ anew from solutions/ and book/
	@python -m course_utils.authoring

live: $(ENV)  ## write what the site's live elements load anew: networks and stills (WHAT=toys trains, WHAT=runtime fetches)
	@python -m course_utils.authoring.live $(WHAT)

grade: $(ENV)  ## grade submitted/ into the gradebook, feedback/ and grades.csv (COURSE=folder OPTIONS=--force)
	@python -m course_utils.grading --course "$(COURSE)" $(OPTIONS)

demo-class: $(ENV)  ## make a small made-up class of submissions to grade (COURSE=folder LAB=07_epipolar or all)
	@python -m course_utils.grading.demo --course "$(COURSE)" $(if $(LAB),--lab "$(LAB)")

lab: $(ENV)  ## open JupyterLab with nbgrader's formgrader (COURSE=folder)
	@COURSE="$(COURSE)" jupyter lab --notebook-dir "$(COURSE)" $(if $(filter 0,$(shell id -u)),--allow-root)

bench: $(ENV)  ## measure: print the benchmarks' tables
	@shopt -s nullglob; for file in benchmarks/[!_]*.py; do echo; echo "== $$file"; python $$file; done

# Root on Debian installs what is missing; anybody else hears what will be skipped.
system:  ## install the Debian packages that some tests use (needs root)
	@missing=(); \
	command -v chromium google-chrome >/dev/null || missing+=(chromium fonts-dejavu-core); \
	command -v bwrap >/dev/null || missing+=(bubblewrap); \
	compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || missing+=(postgresql); \
	if [ $${#missing[@]} = 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "Not installed: $${missing[*]}. The tests that need them are skipped;"; \
		echo "on Debian or Ubuntu: sudo make system"; exit 0; fi; \
	export DEBIAN_FRONTEND=noninteractive; apt-get update -qq >/dev/null || true; \
	for package in "$${missing[@]}"; do echo "Installing $$package"; \
		apt-get install -qq -y --no-install-recommends "$$package" >/dev/null \
			|| echo "Could not install $$package: the tests that need it are skipped."; done

format: $(ENV)  ## bring the code into its format
	@ruff check --fix . && ruff format .

clean:  ## remove the environment and everything that was built
	@rm -rf .venv _build

# Made once, and brought up to date when what it must hold changes.
$(ENV): requirements.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed and was not found:"; \
		echo "install it from python.org or your system's packages, then run this again."; exit 1; fi
	@echo "Setting up .venv: this takes a few minutes and 7 GB, once."
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is missing: on Debian, apt-get install python3-venv"; exit 1; }
	@pip install --quiet --disable-pip-version-check -r requirements.txt --editable . || { \
		echo; echo "The environment could not be made: the reason stands above."; \
		echo "Where it speaks of connections, check the network, then run this again: it goes on from there."; exit 1; }
	@touch $@
