# make demo   set up, rank the default model's heads, write reports/demo/report.html
# make test   set up, run every test and the notebooks in FAST mode
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.complete
# A plain path, which editors and pyright can follow.
EDITABLE := --config-settings editable_mode=compat

.PHONY: demo test lint bench evaluate notebooks docs lock clean

# Threads that wait asleep: on a busy machine spinning ones make every pass several times slower.
demo: export OMP_WAIT_POLICY = PASSIVE
demo: $(SETUP)
	$(BIN)/interp rank negative-attention --model smollm2-135m --data builtin --limit 200 \
	  --out reports/demo --resume --overwrite
	@echo "Open reports/demo/report.html in a browser."

test: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.typecheck  # pyright, about a minute

bench: $(SETUP)  ## writes coverage.md, sweep.md, agreement.md, vision_agreement.md, results.md and import_times.md in tests/benchmarks (25 min)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.sweep
	$(BIN)/python -m tests.benchmarks.agreement
	$(BIN)/python -m tests.benchmarks.vision_agreement
	$(BIN)/python -m tests.benchmarks.bench
	$(BIN)/python -m tests.benchmarks.import_times

evaluate: $(SETUP)  ## every number of the studies; hours on 2 cores, continues where it was killed
	@test -n "$(DATA)" || { echo "give the folder of data sets: make evaluate DATA=path/to/data"; exit 2; }
	$(BIN)/python -m tests.benchmarks.strategyqa "$(DATA)/strategyqa_train.jsonl"
	$(BIN)/python -m tests.benchmarks.negative_bias "$(DATA)" smollm2-135m
	$(BIN)/python -m tests.benchmarks.negative_bias "$(DATA)" qwen2.5-coder-0.5b
	$(BIN)/python -m tests.benchmarks.harmfulness_pairs "$(DATA)" qwen2.5-coder-0.5b
	$(BIN)/python -m tests.benchmarks.harmfulness_pairs "$(DATA)" qwen2.5-coder-1.5b
	$(BIN)/python -m tests.benchmarks.harmfulness "$(DATA)" qwen2.5-coder-0.5b
	$(BIN)/python -m tests.benchmarks.harmfulness "$(DATA)" qwen2.5-coder-1.5b
	$(BIN)/python -m tests.benchmarks.steering "$(DATA)" qwen2.5-coder-0.5b front
	$(BIN)/python -m tests.benchmarks.steering "$(DATA)" qwen2.5-coder-1.5b front
	$(BIN)/python -m tests.benchmarks.known_answers
	$(BIN)/python -m tests.benchmarks.circuits smollm2-135m
	$(BIN)/python -m tests.benchmarks.circuits qwen2.5-coder-0.5b
	$(BIN)/python -m tests.benchmarks.circuits qwen2.5-coder-1.5b
	$(BIN)/python -m tests.benchmarks.path_patching
	$(BIN)/python -m tests.benchmarks.visual_semantics scenes-llava-tiny
	$(BIN)/python -m tests.benchmarks.visual_semantics scenes-smollm2
	$(BIN)/python -m probes.scenes.training.llava_tiny reports/evaluate/training 6
	$(BIN)/python -m tests.benchmarks.visual_semantics reports/evaluate/training/scenes-llava-tiny-seed-6 ranking levels modulation

notebooks: $(SETUP)  ## execute the notebooks in full and save their outputs
	$(BIN)/python -m tests.notebooks

docs: $(SETUP)  ## the site in build/site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q
	@echo "Open build/site/index.html in a browser."

# A virtual environment also where Debian ships Python without ensurepip.
$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[explorer,images,notebooks,docs,ray,test]' $(EDITABLE)
	touch $@

lock:  ## constraints.txt anew: what pip picks today for every extra, in an environment of its own
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --disable-pip-version-check -q -e '.[explorer,images,notebooks,docs,ray,test]' $(EDITABLE)
	{ echo "# Exact versions of everything, made by \`make lock\`. The plain install works without them."; \
	  build/lock/bin/python -m pip freeze --exclude-editable; } > constraints.txt

clean:
	rm -rf $(VENV) reports build *.egg-info
