# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BUDGET ?= full
RUN ?= runs/demo
SEEDS ?= 10000
BIN := $(VENV)/bin
READY := $(VENV)/.lwd-ready
# pyenv's shim of a version that is not selected fails, so its own binaries come first.
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)
VENV_LEROBOT ?= .venv-lerobot
READY_LEROBOT := $(VENV_LEROBOT)/.lwd-ready

.PHONY: demo test test-lerobot has-python312 lint learn reproduce reproduce-smoke learn-test faults attacks e2e web simulate bench bench-data lock clean

demo: $(READY)  ## data, SFT, offline, online, report (BUDGET=smoke walks the whole path in 3 minutes)
	$(BIN)/lwd demo --budget $(BUDGET) --run $(RUN) --console

# Two processes: much of the suite waits for servers and other processes. A file's tests share its fixtures, so files stay whole.
test: $(READY) lint  ## the default suite
	$(BIN)/pytest -n 2 --dist loadfile

# LeRobot needs Python 3.12 and its own environment (about 6 GB with the CUDA build of torch).
test-lerobot: $(READY_LEROBOT)  ## what needs LeRobot: its policies, datasets, robots, teleoperators
	HF_HUB_OFFLINE=1 $(VENV_LEROBOT)/bin/pytest -m "not faults" tests/lerobot tests/field_faults/lerobot

has-python312:
	$(PYTHON312) --version >/dev/null 2>&1

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

learn: $(READY)  ## the learning experiment: 3 seeds, hours; finished pieces are never run again
	$(BIN)/lwd learn

reproduce: $(READY)  ## the paper's experiment in simulation: 7 to 12 hours of two cores, resumable
	$(BIN)/lwd reproduce all --budget small

reproduce-smoke: $(READY)  ## the same walk in ten minutes, with next to no training, to see that everything runs
	$(BIN)/lwd reproduce all --budget smoke

learn-test: $(READY)  ## tests that train until something is learned
	$(BIN)/pytest -m learning

faults: $(READY)  ## tests that kill, corrupt and partition, in full
	$(BIN)/pytest -m faults

attacks: $(READY)  ## what somebody hostile does on loopback, with a table of what was measured
	$(BIN)/pytest -m "attacks or not faults" tests/attacks

e2e: $(READY) web/node_modules  ## a browser against a whole fleet (needs Node; installs Debian's Chromium where it is missing)
	command -v chromium >/dev/null || (apt-get update && apt-get install --yes --no-install-recommends chromium)
	$(BIN)/pytest -m e2e

web: web/node_modules  ## build the console's page into src/lwd/console/static (committed: users need no Node)
	cd web && npm run build

web/node_modules: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

simulate: $(READY)  ## the commit protocol under seeded chaos (SEEDS=10000); a failing seed becomes a regression test
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS)

bench: $(READY)  ## all benchmarks; writes docs/results/bench.json and docs/results/data_plane.md
	$(BIN)/python -m benchmarks.run_all

bench-data: $(READY)  ## the data plane's benchmarks alone (about 12 minutes)
	$(BIN)/python -m benchmarks.data_plane

# --require-hashes is left out: the lock must serve the CPU and the CUDA build of one torch version alike.
$(READY): requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(READY_LEROBOT): requirements-lerobot.lock pyproject.toml
	$(PYTHON312) --version || (echo "test-lerobot needs Python 3.12: install it, or give PYTHON312=PATH" && false)
	$(PYTHON312) -m venv $(VENV_LEROBOT)
	$(VENV_LEROBOT)/bin/pip install --quiet --disable-pip-version-check --requirement requirements-lerobot.lock
	$(VENV_LEROBOT)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock:  ## freeze the versions installed in $(VENV)
	$(BIN)/pip freeze --all --exclude-editable --exclude lwd --exclude pip | sed "s,+cpu,," > requirements-dev.lock

clean:
	rm -rf $(VENV) $(VENV_LEROBOT) runs .pytest_cache .mypy_cache .ruff_cache
