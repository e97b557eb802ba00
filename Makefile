PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test smoke android-test ios-test bench bench-peers bench-start figures lint clean

demo: $(STAMP)
	$(BIN)/echoedge demo --out out/demo --force

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# The smallest bundle of the built-in model, compiled and played for real.
smoke: $(STAMP)
	$(BIN)/echoedge export --frames 5 --weights int8 --out out/smoke/nano.echoedge --force
	$(BIN)/echoedge animate out/smoke/nano.echoedge --image core/assets/demo/ada.png --audio core/assets/demo/hello.wav \
		--prompt "a woman speaks" --out out/smoke/clip.mp4 --force
	$(BIN)/echoedge verify out/smoke/nano.echoedge

# The Kotlin engine: compiled, and held to golden vectors that this build writes. Needs a JDK and npm; says what is missing.
android-test: $(STAMP)
	$(BIN)/echoedge vectors --out out/vectors --force
	ECHOEDGE_VECTORS=out/vectors $(BIN)/python android_demo/build.py test $(ARGS)

# The Swift engine: built, and held to the same vectors. Needs Swift 5.9, or root and debootstrap to set one up; says what is missing.
ios-test: $(STAMP)
	$(BIN)/echoedge vectors --out out/vectors --force
	ECHOEDGE_VECTORS=out/vectors $(BIN)/python ios_demo/build.py test $(ARGS)

# Beside the run that was kept last, with ratios. ARGS="--save NAME", "--beside NAME", or what pytest takes.
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/hot.py $(ARGS)

# The same two blocks in other tools; on a quiet machine. ARGS="--tokens 448 --rounds 15" and so on.
bench-peers: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[peers]"
	$(BIN)/python tests/benchmarks/peers.py --out out/peers $(ARGS)

# From the shell to the end of a command, on the bundle that `make smoke` leaves; on a quiet machine.
bench-start: smoke
	$(BIN)/python tests/benchmarks/start.py out/smoke/nano.echoedge $(ARGS)

# docs/FIGURES.md from records/*.json and docs/FIGURES.template.md, docs/bench.schema.json from its model.
figures: $(STAMP)
	$(BIN)/python docs/figures.py
	$(BIN)/python docs/schema.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python docs/figures.py --check
	$(BIN)/python docs/schema.py --check
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/echoedge
	PYTHONPATH=$(VENV)/src $(BIN)/lint-imports --no-logo --no-cache
	MYPYPATH=$(VENV)/src $(BIN)/mypy -p echoedge

# torch is pinned here so that pip takes one release and not whatever is newest.
$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
