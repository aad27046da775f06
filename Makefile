# `make demo` and `make test` are all the set-up there is: they make a virtual environment in .venv and use it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Versions known to work together; CONSTRAINTS= (empty) takes the newest ones, for example to use a GPU.
CONSTRAINTS ?= constraints.txt
# A real scan for the demo, used where it is present (BraTS layout); SCAN=/path/to/case chooses another.
SCAN ?= $(wildcard ../shared/data/brats_sample/BraTS2021_96692)
OUTPUT ?= out/demo

.PHONY: demo test lint clean

demo: $(VENV)/installed
	"$(BIN)/difffuse" demo --output "$(OUTPUT)" $(if $(SCAN),--scan "$(SCAN)")

test: $(VENV)/installed-dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/python" -m pytest -q

lint: $(VENV)/installed-dev
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

$(VENV)/installed: setup.py constraints.txt
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)") -e .
	touch "$@"

$(VENV)/installed-dev: $(VENV)/installed
	"$(BIN)/python" -m pip install $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)") -e ".[train,preprocess,dev]"
	touch "$@"

clean:
	rm -rf "$(VENV)" out
