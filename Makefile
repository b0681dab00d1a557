# Everything runs in .venv, which is created when it is needed and refreshed when
# pyproject.toml or constraints.txt change. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
export FONTS ?=
DRAWS ?= 1
LIGHTHOUSE := 12.8.2
# The exact versions that the stored outputs were made with; `CONSTRAINTS=` takes the newest instead.
CONSTRAINTS ?= constraints.txt
DECLARED := pyproject.toml $(CONSTRAINTS)
# On Linux the usual torch brings gigabytes of CUDA, so torch's own index of CPU builds is asked for
# once. `TORCH_INDEX=URL` names another one, `TORCH_INDEX=` none, and neither asks.
CPU_INDEX := https://download.pytorch.org/whl/cpu
PATIENCE := 10
ifeq ($(origin TORCH_INDEX),undefined)
ASKED := $(VENV)/.torch-index
TORCH_INDEX = $(shell cat $(ASKED) 2>/dev/null)
endif
PIP = set -o pipefail; $(BIN)/python -m pip --disable-pip-version-check install --progress-bar off \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# Of what pip says, what takes long: one should see that it goes on.
SHOWN := | awk '/^ *(Downloading|Using cached) .*[0-9] [MG]B/ { print; fflush() } \
	/^Installing collected/ { print "  Unpacking all of it"; fflush() }'

# Each module is compiled once, not by each of the many processes that load it.
unexport PYTHONDONTWRITEBYTECODE

CHAPTERS := $(wildcard book/*.ipynb)
# Progress bars off and one thread a process, exactly as when the outputs were stored. Where there
# are two, they wait without spinning: spinning threads of two chapters would starve each other.
RUNNER := TQDM_DISABLE=1 OMP_NUM_THREADS=1
OTHER_KERNELS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE
TWO_THREADS := TQDM_DISABLE=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
# Files go whole to one of two workers: the chapters first, which take longest, then as they stand.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Tests that each take long go one by one to who is free. `SAMPLE=MINUTES` takes as many as there is
# time for, in an order that the last commit decides; what was touched since BASE, a commit, is first.
ONE_BY_ONE = $(BIN)/python -m pytest -n $(if $(COLAB_PYTHON),0,2) --dist load --maxschedchunk=1 \
	--timeout 2400 $(if $(SAMPLE),-p tests.sampling --sample $(SAMPLE))
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with book/_tools/sanitize.cfg

CHECKS := test test-mutations test-marking test-verdicts test-kernels test-colab test-rounding calibration

.DEFAULT_GOAL := help
.PHONY: help assignments bench book calibration chapter check-all clean entries lighthouse outputs repeat screenshots \
	serve stamp stored test test-colab test-kernels test-marking test-mutations test-pages test-rounding \
	test-verdicts verdicts

help: ## list the targets
	@echo "Gradients at Depth. Targets:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)$$/  make \1|\2/' \
		| while IFS='|' read -r name what; do printf '%-24s %s\n' "  $$name" "$$what"; done
	@echo "Options: PYTHON=python3.12 chooses the interpreter; TORCH_INDEX=URL adds a package index for torch;"
	@echo "SAMPLE=MINUTES takes a sample of a test- target or of calibration."

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is `$(PYTHON) --version 2>&1`." \
			"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.book: $(VENV)/.created $(DECLARED)
	@echo "Installing what builds the book into $(VENV) ..."
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["book"], sep="\n")' > $(VENV)/book.txt
	@$(PIP) --requirement $(VENV)/book.txt $(SHOWN)
	@touch $@

$(VENV)/.torch-index: $(VENV)/.created $(DECLARED)
	@if [ "$$(uname)" != Linux ]; then \
		echo "torch comes from the usual index, which has CPU builds for $$(uname)." >&2; \
	elif timeout $(PATIENCE) $(PYTHON) -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1]).read(1)' \
			$(CPU_INDEX)/torch/ 2>/dev/null; then \
		echo "torch comes as a CPU build from $(CPU_INDEX)." >&2; echo $(CPU_INDEX); \
	else \
		echo "$(CPU_INDEX) does not answer: torch comes from the usual index." >&2; \
	fi > $@

$(VENV)/.test: $(VENV)/.created $(DECLARED) $(ASKED)
	@echo "Installing the companion, torch and what checks them into $(VENV), for some minutes ..."
	@$(PIP) --editable '.[book,test,teach,cluster]' $(SHOWN)
	@touch $@ $(VENV)/.book $(VENV)/.teach

$(VENV)/.teach: $(VENV)/.test
	@touch $@

book: $(VENV)/.book ## build the book into _build/html
	@$(BIN)/python book/_tools/verdicts.py --check
	@$(BIN)/python book/_tools/entries.py --check
	@$(BIN)/python book/_tools/build.py
	@echo
	@echo "The book is in _build/html: open _build/html/index.html, or run 'make serve'."

serve: book ## serve the built book on this machine (PORT=8000)
	@$(BIN)/python book/_tools/serve.py $(PORT)

screenshots: $(VENV)/.test ## a picture of each page at three widths in both modes, in _build/screenshots
	@mkdir -p _build/screenshots
	SCREENSHOTS=_build/screenshots $(BIN)/python -m pytest tests/book/test_browser.py -k is_sound

lighthouse: book ## audit the heaviest chapter (needs node and a Chromium; not part of `make test`)
	@npm install --silent --no-fund --no-audit --prefix _build/lighthouse lighthouse@$(LIGHTHOUSE)
	@$(BIN)/python book/_tools/lighthouse.py

test: $(VENV)/.test ## run the checks: ruff, mypy, tests, doctests, and each chapter against its stored outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUNNER) $(PYTEST) --durations=10 --doctest-modules $(NBVAL) $(CHAPTERS) tests companion

test-pages: $(VENV)/.test ## the pages in a browser again (FONTS=DejaVu or FONTS=Liberation: no other fonts)
	$(RUNNER) $(PYTEST) tests/book

check-all: ## every check there is, whole: what is slow and seldom finds anything as well (hours)
	@$(MAKE) --no-print-directory --keep-going --jobs=1 $(CHECKS) DRAWS=1,2,3,4,5,6,7,8,9,10

test-kernels: $(VENV)/.test ## the chapters again, with other CPU kernels and with two threads
	$(OTHER_KERNELS) $(RUNNER) $(PYTEST) $(NBVAL) $(CHAPTERS)
	$(TWO_THREADS) $(PYTEST) $(NBVAL) $(CHAPTERS)

test-rounding: $(VENV)/.test ## the chapters again, rounding as other machines do (DRAWS=1,2,3 CHAPTER=name)
	$(RUNNER) DRAWS=$(DRAWS) CHAPTER="$(CHAPTER)" $(ONE_BY_ONE) --durations=0 tests/rounding.py

test-mutations: $(VENV)/.test ## break the companion in known ways: the tests must notice each
	$(RUNNER) $(ONE_BY_ONE) tests/mutations.py

test-marking: $(VENV)/.test ## mark every typical wrong answer: each gets its mark, and every reference full marks
	$(RUNNER) $(ONE_BY_ONE) tests/teach/wrong_answers.py

test-verdicts: $(VENV)/.test ## try each verdict with fresh draws and at other settings, and each check with the opposite
	$(RUNNER) $(ONE_BY_ONE) --durations=10 tests/verdicts/fresh_draws.py tests/verdicts/against_*.py

test-colab: $(VENV)/.test ## the last commit's chapters on Colab's versions, other kernels, two threads (DRAW=1)
	@$(BIN)/python tests/colab_versions.py
	$(if $(TORCH_INDEX),PIP_EXTRA_INDEX_URL=$(TORCH_INDEX)) $(OTHER_KERNELS) $(TWO_THREADS) \
		$(ONE_BY_ONE) --durations=0 tests/colab.py

# What the monitor is measured against stays out of .venv, and finds its torch there.
BENCH := _build/bench
$(BENCH)/.created: $(VENV)/.test
	@$(BIN)/python -m venv $(BENCH)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(BENCH)/bin/python -c 'import site; print(site.getsitepackages()[0])')/course.pth"
	@for package in "wandb" "jinja2 plotly" "--no-deps torchmortem"; do \
		$(BENCH)/bin/python -m pip --disable-pip-version-check install --quiet $$package \
			|| echo "$$package cannot be installed, and is not measured."; done
	@touch $@

bench: $(BENCH)/.created ## run the benchmarks in tests/benchmarks
	@shopt -s nullglob; scripts=(tests/benchmarks/*.py); \
	if [ $${#scripts[@]} -eq 0 ]; then echo "There are no benchmarks yet."; fi; \
	for script in "$${scripts[@]}"; do echo "== $$script"; \
		PYTHONPATH=. $(RUNNER) $(BENCH)/bin/python "$$script" || exit 1; done

calibration: $(VENV)/.test ## try the diagnosis on the whole zoo, and mend what is broken (some minutes)
	$(RUNNER) $(if $(SAMPLE),$(ONE_BY_ONE),$(BIN)/python) tests/calibration.py

outputs: $(VENV)/.test ## re-execute the chapters and store their outputs (CHAPTER=name for one)
	@$(BIN)/python book/_tools/outputs.py $(CHAPTER)

stored: $(VENV)/.test ## make what takes longer than a chapter may (NAME=long-race; AGAIN=1: only its quick parts)
	@OMP_NUM_THREADS=1 $(BIN)/python book/_tools/stored.py $(if $(AGAIN),--again) $(NAME)

repeat: $(VENV)/.test ## repeat chapters with fresh draws and keep which verdicts held (TIMES=20 FROM=1 CHAPTER=name; AGAIN=1)
	@$(BIN)/python book/_tools/repeat.py $(if $(AGAIN),--again) --times $(or $(TIMES),20) --first $(or $(FROM),1) $(CHAPTER); \
		ended=$$?; $(BIN)/python book/_tools/verdicts.py && exit $$ended

assignments: $(VENV)/.teach ## build each assignment for students, beside its master
	@$(BIN)/python -m companion.teach build --commit

verdicts: $(VENV)/.book ## write book/verdicts.md from the chapters
	@$(BIN)/python book/_tools/verdicts.py

entries: $(VENV)/.book ## write what README, introduction and teaching page say of each chapter
	@$(BIN)/python book/_tools/entries.py

chapter: $(VENV)/.book ## lay the files of a new chapter (NAME=precision TITLE="Precision: ..." AFTER=clipping)
	@$(BIN)/python book/_tools/new_chapter.py $(if $(AFTER),--after $(AFTER)) "$(NAME)" "$(TITLE)"

stamp: $(VENV)/.book ## write the address and release everywhere (REPOSITORY=https://github.com/you/name RELEASE=v1.0)
	@$(BIN)/python book/_tools/stamp.py $(if $(REPOSITORY)$(RELEASE),"$(REPOSITORY)" "$(RELEASE)")

clean: ## remove what was built (delete .venv as well to install afresh)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find book companion tests -name __pycache__ -prune -exec rm -rf {} +
