# Two commands do everything on a fresh machine: `make ladder` (set up, train the ladder, draw it), `make test` (set up, check).
# What is measured goes to runs/, which is not in git; `make results` renews what is committed of it below results/.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= $(shell nproc)
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup ladder studies report results reference test test-all test-soak test-quiet test-slurm lint gpu gpu-ladder bench clean

$(VENV)/.dependencies: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# The link to this checkout is made again each time: the environment may be shared between checkouts.
setup: $(VENV)/.dependencies
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .

ladder: setup
	roadmap run --jobs $(JOBS)
	roadmap report digits

# Every study that ships, at the size of the embedded digits; finished runs are not trained again.
STUDIES = digits resnet200 kernel norm-batch models open-points micro-design deit
studies: setup
	for s in $(STUDIES); do n=$$s-digits; test $$s != digits || n=digits; \
	  roadmap run --study $$s --digits --jobs $(JOBS) || exit 1; \
	  test $$s != models || roadmap bench --study $$n --pairs 30 || exit 1; \
	  roadmap report $$n && roadmap check $$n || exit 1; done

report: setup
	roadmap report digits

# The committed records and tables: from the runs where they are, else from the committed records.
results: setup reference
	for f in results/*/records.jsonl; do s=$$(basename $$(dirname $$f)); \
	  roadmap report $$s --out results/$$s >/dev/null || exit 1; done

reference: setup
	python -m roadmap.cli.counts
	python -m roadmap.cli.names
	for r in resnet50 resnet200; do \
	  roadmap report --paper --regime $$r --out results/reference/$$r || exit 1; done

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test: setup lint
	pytest -m "not slow and not slurm and not gpu" -n 2

test-all: setup lint
	pytest -m "not slurm and not gpu and not quiet and not soak" -n 2 --durations 40

test-soak: setup
	pytest -m soak -n 2

# What measures time: seconds on a machine that does nothing else.
test-quiet: setup
	pytest -m "quiet and not gpu"

# On a cluster that the tests start on this machine, as root: Debian's slurm-wlm, slurmdbd, munge and mariadb-server.
test-slurm: setup
	pytest -m slurm tests/slurm tests/launch

# Works on a bare GPU machine: its own python3, no network, this checkout as it is. Packages it lacks may lie in .whl/ as wheels.
# CIFAR=DIR with train/CLASS and test/CLASS also trains steps 0, 1 and 9 on real images, 20 epochs each.
gpu: export PYTHONPATH = $(CURDIR):$(CURDIR)/.whl/site
gpu:
	if ls .whl/*.whl >/dev/null 2>&1; then python3 -m pip install --quiet --no-index --no-deps --upgrade --target .whl/site .whl/*.whl; fi
	python3 -m pytest -m gpu tests -q
	python3 -m roadmap bench --device cuda --out results/bench
	python3 -m roadmap.bench.packing --device cuda --out results/bench
	test -z "$(CIFAR)" || python3 -m roadmap run --study experiments/cifar10.yaml --step 0 --step 1 --step 9 --data-dir "$(CIFAR)"
	test -z "$(CIFAR)" || python3 -m roadmap report cifar10 --out results/cifar10

# The whole CIFAR-10 ladder with its side steps and three seeds on one GPU, CIFAR=DIR as above; interrupted, it goes on where it was.
gpu-ladder: export PYTHONPATH = $(CURDIR):$(CURDIR)/.whl/site
gpu-ladder:
	python3 -m roadmap run --study experiments/cifar10.yaml --data-dir "$(CIFAR)" --jobs 4
	python3 -m roadmap report cifar10 --out results/cifar10

# The harness beside its peers, about 15 minutes on two cores that do nothing else. PARTS="loader ladder" measures those alone.
PARTS ?= all
bench: setup
	roadmap bench $(PARTS) --device cpu --out results/bench

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
