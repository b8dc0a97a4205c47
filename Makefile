# Piecework's front door. `make` lists what there is.

PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers
AUDIT := .venv-audit
CLOUD := .venv-cloud
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--python-version 3.11 --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help setup dev demo up down status run test test-aws images test-images storm lint templates audit sbom
.PHONY: digests bench bench-ab bench-peers lock clean

help:  ## show this list
	@grep -E '^[a-z-]+%?:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+)(%?):.*## (.*)/  make \1\2\t\3/; s/%/NAME/' | expand -t 20

setup: .venv/.local  ## make a virtual environment in .venv with everything that the stack needs
	@echo "Ready: .venv"

dev: .venv/.dev  ## the same, and the tools for tests and lint (see CONTRIBUTING.md)
	@echo "Ready: .venv"

demo: example-flights  ## start a grid of its own, run a two-stage job over 336,776 flights, check the results, stop

example-%: .venv/.local  ## the same for claims, media, multipart, transform (with 1 GB of data: make example-transform SIZE=1)
	@$(BIN)/python -m deploy.local example $* $(if $(SIZE),--gigabytes $(SIZE))

example-media: .venv/.media

up: .venv/.local  ## start the local stack and leave it running
	@$(BIN)/python -m deploy.local up

down: .venv/.local  ## stop it; jobs and results stay under .piecework/
	@$(BIN)/python -m deploy.local down

status: .venv/.local  ## show what runs
	@$(BIN)/python -m deploy.local status || true

run: .venv/.local  ## run the local stack in the foreground, until Ctrl-C
	@$(BIN)/python -m deploy.local run

test: .venv/.dev .venv/bin/promtool $(AUDIT)/.installed  ## run all tests (or some: make test TESTS=tests/unit)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(TESTS)

test-aws: .venv/.dev $(CLOUD)/.installed  ## run the tests of the deployment to AWS, on two emulators of it
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v nft shellcheck >/dev/null; then \
		apt-get install -y -qq nftables shellcheck >/dev/null || true; fi
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(or $(TESTS),tests/aws)

images: .venv/.dev  ## build the images of deploy/docker (with a container engine, or as root on Debian, which gets one)
	@$(BIN)/python -m deploy.images

test-images: .venv/.dev $(CLOUD)/.installed  ## build the images, boot nodes, run tasks in containers (with a container engine, or as root on Debian, which gets one)
	@$(BIN)/python -m pytest -rs --timeout 900 $(or $(TESTS),tests/images)

storm: .venv/.dev  ## run 100,000 tasks in a storm of faults and check every result (make storm STORM='--seed 7')
	@$(BIN)/python -m tests.storm $(STORM)

lint: .venv/.dev  ## run ruff, mypy, import-linter, cfn-lint
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "run .venv/bin/ruff format ." >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/cfn-lint deploy/aws/*.yaml

templates: .venv/.dev  ## put the files that the templates of deploy/aws include into them
	@$(BIN)/python -m deploy.aws.includes

audit: .venv/.dev $(AUDIT)/.installed  ## list licences and known vulnerabilities (make audit REQUIRED=1: fail if these can't be checked)
	@$(BIN)/python -m deploy.audit --auditor $(AUDIT)/bin/python $(if $(REQUIRED),--required)

sbom: .venv/.python $(AUDIT)/.installed  ## write sbom.cdx.json, what the server's image installs (CycloneDX)
	@directory=$$(mktemp -d) && trap 'rm -rf "$$directory"' EXIT && \
		$(BIN)/uv venv --quiet --clear --python $(BIN)/python "$$directory" && \
		$(BIN)/uv pip install --quiet --python "$$directory/bin/python" --require-hashes -r requirements/server.txt && \
		$(AUDIT)/bin/cyclonedx-py environment --output-reproducible -o sbom.cdx.json "$$directory/bin/python"
	@echo "Written: sbom.cdx.json"

digests:  ## pin the base images to what their tags name now (needs docker with buildx)
	@for image in python:3.11-slim postgres:17; do \
		digest=$$(docker buildx imagetools inspect $$image --format '{{.Manifest.Digest}}') || exit; \
		sed -i.old "s|$$image@sha256:[0-9a-f]*|$$image@$$digest|" deploy/docker/Dockerfile docker-compose.yml || exit; \
		rm -f deploy/docker/Dockerfile.old docker-compose.yml.old; \
	done

bench: .venv/.bench  ## measure throughput, latency, memory, CPU, AWS requests (a long one: make bench SUITES=tenmillion)
	@$(BIN)/python -m bench $(SUITES)

bench-ab: .venv/.bench  ## measure beside an older tree with a .venv of its own: make bench-ab BASE=/path/to/it
	@$(BIN)/python -m bench.ab $(BASE)

bench-peers: .venv/.bench $(PEERS)/.installed  ## the same beside Celery, Dramatiq, taskiq, arq, procrastinate, Dask, Ray
	@$(BIN)/python -m bench peers

lock: .venv/.python  ## compile requirements/*.txt (with the newest versions: make lock UPGRADE=1)
	@$(LOCK) requirements/dev.in -o requirements/dev.txt
	@for name in server client compose local audit; do \
		$(LOCK) requirements/$$name.in -c requirements/dev.txt -o requirements/$$name.txt || exit; done
	@$(LOCK) examples/media/requirements.in -c requirements/dev.txt -o examples/media/requirements.txt
	@$(LOCK) requirements/bench.in -c requirements/dev.txt -o requirements/bench.txt
	@$(LOCK) requirements/peers.in -o requirements/peers.txt
	@$(LOCK) requirements/cloud.in -o requirements/cloud.txt
	@$(LOCK) requirements/uv.in -o requirements/uv.txt

clean:  ## stop the stack; remove its data, the virtual environment and all caches
	@if [ -x $(BIN)/python ] && [ -d .piecework ]; then $(BIN)/python -m deploy.local down; fi
	@rm -rf .piecework .venv $(PEERS) $(AUDIT) $(CLOUD) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache client/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python: requirements/uv.txt
	@command -v $(PYTHON) >/dev/null || { echo "Piecework needs Python 3.11 or newer, and '$(PYTHON)' is not there:" \
		"install it, or name another one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Piecework needs Python 3.11 or newer," \
		"and '$(PYTHON)' is older: name a newer one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: install it," \
		"on Debian and Ubuntu with apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv"
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.local: .venv/.python requirements/local.txt client/pyproject.toml VERSION
	@echo "Installing $$(grep -c '==' requirements/local.txt) pinned packages"
	@$(INSTALL) --require-hashes -r requirements/local.txt
	@$(INSTALL) --no-deps --no-build-isolation -e client
	@echo "Compiling what the services import"
	@$(BIN)/python -m deploy.local.warm
	@touch $@

# The only packages with GPL parts: what `make up` and the images install holds none.
.venv/.media: .venv/.local examples/media/requirements.txt
	@echo "Installing ffmpeg and PyAV for the media example"
	@$(INSTALL) --require-hashes -r examples/media/requirements.txt
	@touch $@

.venv/.dev: .venv/.local requirements/dev.txt
	@echo "Installing $$(grep -c '==' requirements/dev.txt) pinned packages for development"
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(CLOUD)/.installed: .venv/.python requirements/cloud.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(CLOUD)
	@$(BIN)/uv pip install --quiet --python $(CLOUD)/bin/python --require-hashes -r requirements/cloud.txt
	@touch $@

$(AUDIT)/.installed: .venv/.python requirements/audit.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AUDIT)
	@$(BIN)/uv pip install --quiet --python $(AUDIT)/bin/python --require-hashes -r requirements/audit.txt
	@touch $@

.venv/bin/promtool: .venv/.python
	@sh deploy/monitoring/promtool.sh $@

.venv/.bench: .venv/.dev requirements/bench.txt
	@$(INSTALL) --require-hashes -r requirements/bench.txt
	@touch $@

# The benchmark reports a peer that cannot be installed, so a failure here ends nothing.
$(PEERS)/.installed: .venv/.python requirements/peers.txt
	@echo "Installing $$(grep -c '==' requirements/peers.txt) pinned packages of the peers"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS)
	@if $(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes -r requirements/peers.txt; \
		then touch $@; fi
