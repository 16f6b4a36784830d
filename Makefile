# Two commands: `make demo` and `make test`. Both set up .venv first (once; llama.cpp is compiled, about 4 minutes).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_HOME := $(CURDIR)/$(VENV)/demo-home

.PHONY: setup demo test lint types slow clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and pinned: a plain torch would bring gigabytes of CUDA
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@echo "Installing; llama.cpp is compiled on the way, about 4 minutes on two cores."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,convert,train,dev]'
	touch $(STAMP)

demo: setup
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava convert demo --force
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava verify --checkpoint demo
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat edge_llava/demo/table.jpg -p "What is on the table?" -n 24 --temp 0
	@echo "That answer is noise on purpose: the demo's weights are random and have learned nothing. 'verify' compared it"
	@echo "with the checkpoint, stage by stage; what Q4_K_M costs stands in the row 'language'. Go on with:"
	@echo "  EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat edge_llava/demo/table.jpg"

test: setup lint types
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the installed package, as users get it: the mapped rooms exist only there
types: setup
	rm -rf build $(VENV)/types
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(VENV)/types .
	rm -rf build
	cd $(VENV)/types && ../bin/mypy --config-file ../../pyproject.toml -p edge_llava

slow: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
