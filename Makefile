# `make demo` and `make test` are all the set-up there is: they make a virtual environment in .venv and use it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Versions known to work together, a torch and a torchvision of one build among them. CONSTRAINTS= (empty) takes the
# newest ones; PIP_FLAGS passes options to pip, such as --index-url with PyTorch's index of CPU builds.
CONSTRAINTS ?= constraints.txt
PIP_FLAGS ?=
INSTALL = "$(BIN)/python" -m pip install $(PIP_FLAGS) $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)")
# A real scan for the demo, used where it is present (BraTS layout); SCAN=/path/to/case chooses another.
SCAN ?= $(wildcard ../shared/data/brats_sample/BraTS2021_96692)
OUTPUT ?= out/demo

# Tests on all cores, each process a part of the files: what a file sets up is set up once.
SHARED_OUT = -n auto --dist worksteal

.PHONY: demo test coverage lint docs clean

demo: $(VENV)/installed
	"$(BIN)/difffuse" demo --output "$(OUTPUT)" $(if $(SCAN),--scan "$(SCAN)")

test: $(VENV)/installed-dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/pyright"
	"$(BIN)/python" -m pytest -q $(SHARED_OUT)

# How much of the package the tests run, against the floor in pyproject.toml; a third slower than `make test`.
coverage: $(VENV)/installed-dev
	"$(BIN)/python" -m pytest -q $(SHARED_OUT) --cov=difffuse_hf --cov-report=term:skip-covered

lint: $(VENV)/installed-dev
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# The site in out/docs, without network; a warning ends the build. The variable silences an advertisement.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build

$(VENV)/installed: setup.py constraints.txt
	"$(PYTHON)" -m venv "$(VENV)"
	$(INSTALL) -e ".[preprocess]"
	"$(BIN)/python" -c "import torchvision"  # fails where the pair does not match
	touch "$@"

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e ".[train,preprocess,app,dev]"
	touch "$@"

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) -e ".[docs]"
	touch "$@"

clean:
	rm -rf "$(VENV)" out
