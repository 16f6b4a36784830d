# Start with `make demo` and `make test`. Both set up .venv once, which compiles llama.cpp (about 4 minutes); the demo
# installs [cpu,convert] only. torch comes without CUDA (packaging/install.py), unless CUDA=1; TORCH_INDEX=URL names the
# index that it is taken from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo
INSTALL = packaging/install.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(if $(filter 1,$(CUDA)),--cuda)
DEMO_HOME := $(CURDIR)/$(VENV)/demo-home
DEMO_WORK ?= build/demo-checkpoint
FLOORS := .venv-floors
RUNTIME := .venv-runtime
DOCS := .venv-docs
PLUGINS := build/plugins

.PHONY: setup demo ask demo-checkpoint demo-bundle test test-floors test-runtime test-vulkan test-rpc lint types docs release slow clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[cpu,convert,train,serve,dev]'
	touch $(STAMP) $(DEMO_STAMP)

# in the same environment, to which `make setup` adds the rest
$(DEMO_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --constraint constraints.txt --editable '.[cpu,convert]'
	touch $(DEMO_STAMP)

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava convert demo --force
	EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava verify --checkpoint demo
	@$(MAKE) --no-print-directory ask QUESTION="What colour is the square?" ANSWER="Blue."
	@$(MAKE) --no-print-directory ask QUESTION="How many objects are there?" ANSWER="Three."
	@$(MAKE) --no-print-directory ask QUESTION="Is the green star to the left of the blue square?" ANSWER="Yes."
	@echo "The image is edge_llava/demo/pictures/shapes-1.jpg. Look at it, and ask more with:"
	@echo "  EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat demo:1"

# fails if the answer is wrong
ask:
	@echo "> $(QUESTION)"
	@answer=$$(EDGE_LLAVA_HOME=$(DEMO_HOME) $(BIN)/edge-llava chat edge_llava/demo/pictures/shapes-1.jpg \
		-p "$(QUESTION)" --temp 0) && echo "$$answer" && \
		{ [ "$$answer" = "$(ANSWER)" ] || { echo "expected: $(ANSWER)"; exit 1; }; }

# from scratch; takes hours on a CPU, and the same command resumes after a stop
demo-checkpoint: setup
	PYTHONPATH=examples $(BIN)/python -m demo_checkpoint $(DEMO_WORK)/llava-scenes $(DEMO_WORK)
	for quant in F16 Q4_K_M; do \
		$(BIN)/edge-llava convert $(DEMO_WORK)/llava-scenes --quant $$quant -o $(DEMO_WORK)/$$quant --force && \
		$(BIN)/edge-llava eval scenes -m $(DEMO_WORK)/$$quant --seed 1 --n 1000 -t 1 --json > $(DEMO_WORK)/$$quant.json || exit 1; \
	done
	PYTHONPATH=examples $(BIN)/python -m demo_checkpoint.card $(DEMO_WORK)/llava-scenes $(DEMO_WORK)/F16.json $(DEMO_WORK)/Q4_K_M.json
	rm -rf edge_llava/demo/llava-scenes
	cp -r $(DEMO_WORK)/llava-scenes edge_llava/demo/llava-scenes
	rm edge_llava/demo/llava-scenes/loss.*

# the bundle in the wheel: `edge-llava chat demo:1`
demo-bundle: setup
	$(BIN)/edge-llava convert demo -o edge_llava/demo/bundles/demo --quant Q4_K_M --vision int8 --force

# two processes, each with whole files: the tests of a file share what they prepared
test: setup lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# checks the installed package, as users get it: the mapped packages exist only there
types: setup
	rm -rf build/lib build/bdist.* $(VENV)/types
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(VENV)/types .
	rm -rf build/lib build/bdist.*
	cd $(VENV)/types && MYPYPATH=../../examples ../bin/mypy --config-file ../../pyproject.toml -p edge_llava -p demo_checkpoint

# runs the tests with the oldest versions that pyproject.toml allows
test-floors:
	$(PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet packaging
	$(FLOORS)/bin/python .ci/floors.py cpu convert train serve > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python $(INSTALL) --constraint $(FLOORS)/floors.txt --editable '.[cpu,convert,train,serve,dev]'
	$(FLOORS)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# the runtime's tests as a device installs it: the base install, [cpu] and pytest; no torch
test-runtime:
	$(PYTHON) -m venv --clear $(RUNTIME)
	$(RUNTIME)/bin/python $(INSTALL) --constraint constraints.txt --editable '.[cpu]' pytest
	$(RUNTIME)/bin/python -m pytest tests/runtime

# llama.cpp's plug-ins, tested on software Vulkan and on two servers here. Needs cmake, a C++ compiler, and for Vulkan
# glslc, Vulkan's headers (1.3.275 or newer; else VULKAN_FLAGS=--cmake=-DVulkan_INCLUDE_DIR=...) and Mesa's lavapipe.
test-vulkan: setup
	$(BIN)/python packaging/backend_wheel.py vulkan $(PLUGINS) --build $(PLUGINS)/vulkan $(VULKAN_FLAGS)
	rm -rf $(PLUGINS)/installed && $(BIN)/python -m pip install --quiet --no-deps --target $(PLUGINS)/installed $(PLUGINS)/edge_llava_vulkan-*.whl
	EDGE_LLAVA_BACKENDS=$(CURDIR)/$(PLUGINS)/installed/edge_llava_vulkan $(BIN)/python -m pytest -m slow tests/runtime/test_vulkan.py tests/converters/test_vulkan_families.py

test-rpc: setup
	$(BIN)/python packaging/backend_wheel.py rpc $(PLUGINS) --build $(PLUGINS)/rpc
	rm -rf $(PLUGINS)/installed && $(BIN)/python -m pip install --quiet --no-deps --target $(PLUGINS)/installed $(PLUGINS)/edge_llava_rpc-*.whl
	EDGE_LLAVA_BACKENDS=$(CURDIR)/$(PLUGINS)/installed/edge_llava_rpc $(BIN)/python -m pytest -m slow tests/runtime/test_rpc.py

# The site, in build/docs/site; fails on any warning. The Python reference is read from the sources as they are installed,
# without importing them.
docs: $(DOCS)/.installed
	rm -rf build/docs && mkdir -p build/docs/package
	cp -r edge_llava build/docs/package && cp -r runtime converters build/docs/package/edge_llava
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict -f packaging/mkdocs.yml
	@echo "The documentation is in build/docs/site. To read it: $(PYTHON) -m http.server -d build/docs/site"

$(DOCS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

# what the workflow of releases does with a tag, without publishing: make release TAG=v0.2.0
release: setup
	$(BIN)/python packaging/release.py $(TAG) dist

slow: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) $(FLOORS) $(RUNTIME) $(DOCS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
