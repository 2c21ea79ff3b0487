# make book    the environment in .venv, the chapters executed, the pages in _build/html
# make test    the environment, the checks of the code, the tests, every chapter through nbmake
#
# PYTHON=... chooses the Python that .venv is made from; by default, the first that is new enough.

ENV := .venv
BIN := $(ENV)/bin
COLAB_ENV := .venv-colab
COLAB_BIN := $(COLAB_ENV)/bin
COLAB_CHAPTER := book/prediction/bayes.ipynb

# One process a core; what a file's tests share is computed in one of them.
SPREAD := --numprocesses=logical --dist=loadfile

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book test test-colab env notebooks format lint clean help
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# *make/make/p' Makefile

# The chapters are executed by nbmake (tools/execute.py), and the build takes its outputs from there.
# The build folder is fresh every time: -W over an unchanged page that failed before would pass.
# A book that was built and checked from the very same files is left as it is.
book: env
	@$(BIN)/python tools/bookcache.py unchanged || $(MAKE) --no-print-directory book-now
	@echo "The book: _build/html/index.html"

.PHONY: book-now
book-now: env
	$(BIN)/python tools/notebooks.py --check
	$(BIN)/python tools/execute.py
	rm -rf _build/html _build/jupyter_execute _build/.doctrees
	$(BIN)/jupyter-book build . -W --keep-going --quiet
	BOOK_HTML=required $(BIN)/pytest tests/test_book.py -q --numprocesses=logical
	$(BIN)/python tools/bookcache.py done

test: env lint
	$(BIN)/pytest $(SPREAD)
	$(BIN)/python tools/execute.py

# make test-browser    the built pages in Chromium; needs it, node and npm, and `make book` before
.PHONY: test-browser pdf
test-browser: env
	npm ci --prefix tests --silent
	BOOK_BROWSER=required $(BIN)/pytest tests/test_browser.py -q --numprocesses=logical

# make pdf    _build/book.pdf, the whole book as Chromium prints it; after `make book`
pdf: env
	$(BIN)/python tools/pdf.py

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

env: $(ENV)/.installed

$(ENV)/.installed: requirements.txt pyproject.toml
	@set -e; test -x $(BIN)/python || { base=$$(tools/find-python); "$$base" -m venv $(ENV); }
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# make test-colab    the tests of the library and one chapter, on the versions that Colab has
test-colab:
	@if tools/find-python313 >/dev/null; then $(MAKE) --no-print-directory test-colab-now; \
	else echo "test-colab: skipped, there is no Python 3.13 here."; fi

.PHONY: test-colab-now
test-colab-now: $(COLAB_ENV)/.installed
	$(COLAB_BIN)/pytest $(SPREAD) --ignore=tests/test_book.py --ignore=tests/test_browser.py
	$(COLAB_BIN)/pytest --nbmake -o addopts= -o filterwarnings= $(COLAB_CHAPTER)

$(COLAB_ENV)/.installed: requirements-colab.txt pyproject.toml
	rm -rf $(COLAB_ENV)
	"$$(tools/find-python313)" -m venv $(COLAB_ENV)
	$(COLAB_BIN)/python -m pip install --quiet --requirement requirements-colab.txt
	$(COLAB_BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# make bench    tuning beside a plain loop, on an otherwise idle machine; half an hour. Where the CPU
#              has AVX-512, the sizes of micro-batches also as XLA writes them without it
.PHONY: bench reproduce
bench: env
	$(BIN)/python benchmarks/bench.py
	if grep -qw avx512f /proc/cpuinfo 2>/dev/null; then XLA_FLAGS=--xla_cpu_max_isa=AVX2 \
		$(BIN)/python benchmarks/bench.py --only tuning micro_batches profiles; fi

# make reproduce    those of the paper's experiments that are not stored yet; hours, and resumable
reproduce: env
	$(BIN)/python -m promptbayes reproduce

# make notebooks    the .ipynb beside every chapter, again; after a change of a chapter
notebooks: env
	$(BIN)/python tools/notebooks.py

# make format    ruff's layout
format: env
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# make clean    everything that make has made, the environments excepted
clean:
	rm -rf _build .cache

# The course
COURSE_ENV := .venv-course
COURSE_BIN := $(COURSE_ENV)/bin

$(COURSE_ENV)/.installed: requirements-course.txt
	@set -e; test -x $(COURSE_BIN)/python || { base=$$(tools/find-python); "$$base" -m venv $(COURSE_ENV); }
	$(COURSE_BIN)/python -m pip install --quiet --requirement requirements-course.txt
	@touch $@

.PHONY: course grade course-test
# make course    the assignments' notebooks and the teacher's secret; ROSTER=file makes the tickets
course: $(COURSE_ENV)/.installed
	$(COURSE_BIN)/python course/build.py $(if $(ROSTER),--roster "$(ROSTER)")

# make grade FOLDER=.../assignment-1    points and feedback for a folder of submissions
grade: env $(COURSE_ENV)/.installed
	$(COURSE_BIN)/python course/grade.py "$(FOLDER)" $(if $(UNSAFE),--unsafe)

# make course-test    the tests of the course and its grader, on one assignment; ALL=1 takes both
course-test: env $(COURSE_ENV)/.installed
	COURSE_ALL=$(ALL) $(COURSE_BIN)/python -m pytest -c /dev/null --rootdir=course course/tests -q -p no:cacheprovider
