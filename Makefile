# Two commands do everything; each creates .venv and installs what it needs if that is not there yet.
#   make demo   the main job on synthetic masses, to demo/run/report.html
#   make test   lint, format, types, import contract, tests
#   make docs   the documentation as a site, to site/
# For those who publish:
#   make release    distributions, lock file with hashes, SBOM, licence report, audit, all in dist/
#   make audit      known holes of what is locked
#   make container  the Containerfile, or its steps where there is no engine

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
USE := .venv/installed-for-use
DEV := .venv/installed-for-development

.PHONY: demo test docs format clean release audit container

demo: $(USE)
	@rm -rf demo
	@$(BIN)/diagnet demo --out demo

test: $(DEV)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

release: $(DEV)
	.ci/release

audit: $(DEV)
	.ci/release audit

container:
	.ci/container

clean:
	rm -rf .venv .venv-release demo dist site

# torch comes first and by itself: asked for through another package, pip would take a build for graphics cards.
$(USE): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "diagnet needs Python 3.11 or newer; none was found. Fix: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade "pip>=25.1"
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable ".[report,dicom,serve]"
	@touch $@

$(DEV): $(USE)
	$(PIP) install --quiet --constraint constraints.txt --group dev --group docs --editable ".[onnx,openvino,tensorboard,mlflow,study,dask,hpo,pacs,serve]"
	@touch $@
