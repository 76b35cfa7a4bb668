# Everything happens below .work/ (virtual environments, wheel, clones) and target/ (cargo).
# Needed on the machine: Rust, Python 3.9 or later with venv, make, a C compiler.

PYTHON ?= python3
WORK := .work
DRIVER := $(WORK)/driver
DRIVER_PYTHON := $(DRIVER)/bin/python
WHEEL := $(WORK)/wheel.stamp
# Tests wait for processes more than they compute: four at a time also on two cores.
JOBS ?= 4
# Further arguments for pytest: make pytest ARGS='-k parity -x'
ARGS ?=

.PHONY: help demo test pytest parity model bench lint lint-rust lint-python cargo-test wheel clean

help:
	@echo 'make demo      the same tests by pytest, by a first and by a warm pyseidon-test, with times'
	@echo 'make test      everything the tests need, then all of them'
	@echo 'make pytest    only the Python suite; ARGS="-k signals -x" goes to pytest'
	@echo 'make parity    the test suites of real packages from PyPI, plain and warm;'
	@echo '               ARGS="click flask" for some of them, ARGS=--list for their names'
	@echo 'make model     random projects, edits and selections, each run compared with plain pytest;'
	@echo '               STEPS=10000 SEED=1 JOBS=2, REPLAY=.work/model/1.json for a failure again'
	@echo 'make bench     the benchmark: table and chart, with every peer that installs; 40 minutes'
	@echo '               ARGS=--quick for a little of everything, in a few minutes;'
	@echo '               ARGS="--project plugins" for a part'
	@echo 'make lint      formatting and lints of Rust and Python'
	@echo 'make wheel     the wheel, in $(WORK)/dist'
	@echo 'make clean     removes $(WORK), build and target'

# ---------------------------------------------------------------- tools

# Its own interpreter and its own tools, so that nothing of the machine is
# needed or changed. The subject of the tests lives in other environments.
$(DRIVER)/stamp: tests/requirements/driver.txt
	$(PYTHON) -m venv --clear $(DRIVER)
	$(DRIVER_PYTHON) -m pip install --quiet --disable-pip-version-check -r tests/requirements/driver.txt
	@touch $@

SOURCES := $(shell find src pytest_plugin -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi') \
	Cargo.toml $(wildcard Cargo.lock) pyproject.toml setup.cfg

# build/ goes first: setuptools would pack modules that were deleted since.
$(WHEEL): $(DRIVER)/stamp $(SOURCES)
	@command -v cargo >/dev/null || { echo 'error: `cargo` was not found' >&2; echo >&2; \
		echo 'hint: install Rust from https://rustup.rs, then run make again' >&2; exit 1; }
	@echo 'building the wheel: about two minutes the first time' >&2
	rm -rf build $(WORK)/dist
	$(DRIVER_PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WORK)/dist .
	@touch $@

wheel: $(WHEEL)
	@ls $(WORK)/dist/*.whl

# ---------------------------------------------------------------- checks

# The second clippy looks at what other systems than Linux compile.
# A Rust without these two components (a distribution's own) can still build and test; in
# continuous integration they must be there.
lint-rust:
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; \
	else echo 'not checked: `cargo fmt` is missing (rustup component add rustfmt)'; test -z "$$CI"; fi
	@if cargo clippy --version >/dev/null 2>&1; then \
		cargo clippy --quiet --locked --workspace --all-targets -- -D warnings && \
		RUSTFLAGS='--cfg pyseidon_portable' cargo clippy --quiet --locked --workspace --all-targets \
			--target-dir $(WORK)/portable -- -D warnings; \
	else echo 'not checked: `cargo clippy` is missing (rustup component add clippy)'; test -z "$$CI"; fi

lint-python: $(DRIVER)/stamp
	$(DRIVER)/bin/ruff check --quiet .

lint: lint-rust lint-python

cargo-test:
	cargo test --quiet --locked
	cargo test --quiet --locked --package pyseidon-zygote --lib

pytest: $(WHEEL)
	$(DRIVER_PYTHON) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

# In this order: what is quick to say no comes first.
test:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory cargo-test
	@$(MAKE) --no-print-directory pytest

# ---------------------------------------------------------------- shows

demo: $(WHEEL)
	@$(DRIVER_PYTHON) -m tests.demo

parity: $(WHEEL)
	$(DRIVER_PYTHON) -m tests.parity $(ARGS)

STEPS ?= 1000
model: $(WHEEL)
	$(DRIVER_PYTHON) -m tests.model --jobs $(JOBS) --steps $(STEPS) $(if $(SEED),--seed $(SEED)) \
		$(if $(REPLAY),--replay $(REPLAY)) $(ARGS)

bench: $(WHEEL)
	$(DRIVER_PYTHON) bench/run.py $(ARGS)

clean:
	rm -rf $(WORK) build target *.egg-info pytest_plugin/*.egg-info pytest_plugin/pyseidon/*.so
