# Two commands: `make demo` and `make test`. Both set up .venv first (once; llama.cpp is compiled, about 4 minutes).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_HOME := $(CURDIR)/$(VENV)/demo-home
DEMO_WORK ?= build/demo-checkpoint
FLOORS := .venv-floors

.PHONY: setup demo ask demo-checkpoint test test-floors lint types slow clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and pinned: a plain torch would bring gigabytes of CUDA
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@echo "Installing; llama.cpp is compiled on the way, about 4 minutes on two cores."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,convert,train,serve,dev]'
	touch $(STAMP)

demo: setup
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava convert demo --force
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava verify --checkpoint demo
	@$(MAKE) --no-print-directory ask QUESTION="What colour is the square?" ANSWER="Blue."
	@$(MAKE) --no-print-directory ask QUESTION="How many objects are there?" ANSWER="Three."
	@$(MAKE) --no-print-directory ask QUESTION="Is the green star to the left of the blue square?" ANSWER="Yes."
	@echo "The picture is edge_llava/demo/pictures/shapes-1.jpg: look at it, and ask on with:"
	@echo "  EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat edge_llava/demo/pictures/shapes-1.jpg"

# the answer must be the right one
ask:
	@echo "> $(QUESTION)"
	@answer=$$(EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat edge_llava/demo/pictures/shapes-1.jpg \
		-p "$(QUESTION)" --temp 0) && echo "$$answer" && \
		{ [ "$$answer" = "$(ANSWER)" ] || { echo "expected: $(ANSWER)"; exit 1; }; }

# from nothing; hours on a CPU, and the same command goes on after a stop
demo-checkpoint: setup
	$(BIN)/python -m edge_llava.training.demo $(DEMO_WORK)/llava-scenes $(DEMO_WORK)
	for quant in F16 Q4_K_M; do \
		$(BIN)/edge-llava convert $(DEMO_WORK)/llava-scenes --quant $$quant -o $(DEMO_WORK)/$$quant --force && \
		$(BIN)/edge-llava eval scenes -m $(DEMO_WORK)/$$quant --seed 1 --n 1000 -t 1 --json > $(DEMO_WORK)/$$quant.json || exit 1; \
	done
	$(BIN)/python -m edge_llava.training.demo.card $(DEMO_WORK)/llava-scenes $(DEMO_WORK)/F16.json $(DEMO_WORK)/Q4_K_M.json
	rm -rf edge_llava/demo/llava-scenes
	cp -r $(DEMO_WORK)/llava-scenes edge_llava/demo/llava-scenes
	rm edge_llava/demo/llava-scenes/loss.*

test: setup lint types
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the installed package, as users get it: the mapped rooms exist only there
types: setup
	rm -rf build/lib build/bdist.* $(VENV)/types
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(VENV)/types .
	rm -rf build/lib build/bdist.*
	cd $(VENV)/types && ../bin/mypy --config-file ../../pyproject.toml -p edge_llava

# the same tests with the oldest versions that pyproject.toml allows: a lower bound is a promise
test-floors:
	$(PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --upgrade pip packaging
	$(FLOORS)/bin/python .ci/floors.py cpu convert train serve > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --constraint $(FLOORS)/floors.txt --editable '.[cpu,convert,train,serve,dev]'
	$(FLOORS)/bin/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) $(FLOORS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
