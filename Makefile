# The only door: people and CI call these targets and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev,heic,jxl,lite,onnx,raw,ray,review,s3,serve
# TORCH=cpu fetches torch's CPU wheels first, which are 5 GB smaller than those for GPUs.
TORCH ?= default
DATA ?= data/mirflickr25k

.PHONY: help setup demo test test-reliability coverage mutants check measure format docs site bench-inference bench-predict bench-serving screenshots dependencies audit experiments experiments-quick pretrained ci-system bench-memory bench-tag bench-cluster bench-labels bench-layer bench-start bench-extend bench-teaching bench-answers bench-waiting clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed  ## Make the virtual environment and install mlcrf in it.

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(BIN)/pip install --quiet torch torchvision --index-url https://download.pytorch.org/whl/cpu
endif
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

demo: setup  ## Run the main job from end to end on drawn scenes.
	$(BIN)/mlcrf demo --out runs/demo

test: setup  ## Run the tests.
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15

N ?= 0.1
test-reliability: setup  ## Try the promises of docs/promises.md at length: N=1 in full, N=0.1 in 40 minutes.
	MLCRF_RELIABILITY=$(N) $(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 tests/reliability

coverage: setup  ## Run the tests and show which lines and branches of the package they pass over.
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-branch --cov-report term --timeout 900

mutants: setup  ## Change the CRF core at 400 places and see whether tests notice, an hour: tests/reliability/mutants.md.
	$(BIN)/pip install --quiet 'cosmic-ray>=8.7'
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/mutants.py --again

check: setup  ## Lint, types, layers, dead code and dependencies, and docs against the program.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/deptry mlcrf
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m experiments.pages --check
	$(MKDOCS) --site-dir ../../build/checked-site

REPO ?= .
measure:  ## Print size and shape of a checkout as a table; REPO=folder.
	$(PYTHON) docs/measure.py --repo $(REPO)

format: setup  ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## Write docs/cli.md anew from --help, and the tables from the experiments' figures.
	$(BIN)/python docs/generate.py
	$(BIN)/python -m experiments.pages

# Strict: a link to nothing, or a page that is not in the navigation, is an error.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml
site: setup  ## Build the documentation as a site, build/site/index.html, and run the lecture's notebooks in it.
	RUN_NOTEBOOKS=true $(MKDOCS)

RUN ?= runs/mir24
bench-inference: setup  ## Measure inference beside its limits and peers; DATA=folder RUN=run OUT=file.json QUICK=1.
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python experiments/benchmarks/inference.py $(if $(OUT),--out $(OUT)) $(if $(QUICK),--quick) \
		$(if $(RUN),--data $(DATA) --run $(RUN))

EXPERIMENTS := lecture objectives decisions hidden_labels learning_curves known_tags structures calibration correlations \
	clicks teach sources albums synthetic_recovery resolution best many_labels annotation \
	slopes rules audit never_worse multilabel guarantees coverage costs drift beyond_pairwise
experiment-%: setup  # One experiment, such as experiment-known_tags; DATA=folder.
	$(BIN)/python -m experiments.$*.run $(if $(filter lecture,$*),,--data $(DATA))

experiment-teach: setup  # The same, and whether the estimates of a tag's quality hold; DATA=folder.
	$(BIN)/python -m experiments.teach.run --data $(DATA)
	$(BIN)/python -m experiments.teach.estimates --data $(DATA)

NUMBERS ?=
experiment-never_worse: setup  # The same without --data, which names other data sets; DATA=folder NUMBERS=folder.
	$(BIN)/python -m experiments.never_worse.run --photos $(DATA) $(if $(NUMBERS),--numbers $(NUMBERS))

experiment-multilabel: setup  # On data sets of numbers, a drawn one without; NUMBERS=folder.
	$(BIN)/python -m experiments.multilabel.run $(if $(NUMBERS),--data $(NUMBERS))

experiments: setup  ## Run every experiment on MIRFLICKR, for hours; DATA=folder.
	@for name in $(EXPERIMENTS); do $(MAKE) --no-print-directory experiment-$$name || exit 1; done

experiments-quick: setup  ## Run every experiment on 600 photos, two at a time, into runs/quick; DATA=folder.
	$(BIN)/python -m experiments.lecture.run --quick --out runs/quick/lecture.json
	@# the first makes the run that most of the others start from
	OMP_NUM_THREADS=2 $(BIN)/python -m experiments.decisions.run --quick --data $(DATA)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.multilabel.run --quick $(if $(NUMBERS),--data $(NUMBERS))
	@printf '%s\n' $(filter-out lecture decisions multilabel,$(EXPERIMENTS)) | OMP_NUM_THREADS=1 xargs -P 2 -I NAME \
		$(BIN)/python -m experiments.NAME.run --quick --data $(DATA)

ROWS ?= 1000000
bench-memory: setup  ## Measure fitting on features that are mapped from files; ROWS=1000000 OUT=file.json.
	$(BIN)/python experiments/benchmarks/mapped_features.py --rows $(ROWS) --out $(or $(OUT),experiments/benchmarks/mapped_features.json)

bench-predict: setup  ## Measure `predict` beside its limits and other programs; DATA=folder RUN=run OUT=file.json.
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python experiments/benchmarks/predict.py --data $(DATA) --run $(RUN) $(if $(QUICK),--quick) \
		$(if $(OUT),--out $(OUT))

bench-serving: setup  ## Measure `serve` under load beside `Tagger`; DATA=folder RUN=run OUT=file.json QUICK=1.
	$(BIN)/python experiments/benchmarks/serving.py --data $(DATA) $(if $(RUN),--run $(RUN)) \
		$(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

bench-cluster: setup  ## Measure `predict --cluster ray` beside `predict`; DATA=folder OUT=file.json CORES=number.
	$(BIN)/python experiments/benchmarks/cluster.py --data $(DATA) $(if $(QUICK),--quick) \
		$(if $(CORES),--cores $(CORES)) $(if $(OUT),--out $(OUT))

bench-tag: setup  ## Measure `tag --xmp` beside `predict`; DATA=folder OUT=file.json QUICK=1.
	$(BIN)/python experiments/benchmarks/tagging.py --data $(DATA) $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

bench-waiting: setup  ## Time `train` by how OpenMP's threads wait; DATA=folder OUT=file.json.
	$(BIN)/python -m experiments.benchmarks.waiting --train $(DATA) --turns 2 \
		--out $(or $(OUT),experiments/benchmarks/waiting.json)

bench-extend: setup  ## Measure `extend` beside a fit of all labels anew; DATA=folder OUT=file.json RUNS=folder.
	$(BIN)/python -m experiments.benchmarks.extend --data $(DATA) --out $(or $(OUT),experiments/benchmarks/extend.json) \
		$(if $(RUNS),--runs $(RUNS))

bench-start: setup  ## Measure how long commands take to start, beside `import torch`, a minute; OUT=file.json.
	$(BIN)/python experiments/benchmarks/start.py --out $(or $(OUT),experiments/benchmarks/start.json)

bench-labels: setup  ## Measure learning with 100 to 5,000 labels, ten minutes; OUT=file.json QUICK=1.
	$(BIN)/python -m experiments.benchmarks.big_labels $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

bench-layer: setup  ## Measure the layer beside the engine, and what a loop learns; DATA=folder OUT=file.json QUICK=1.
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks.layer $(if $(QUICK),--quick) \
		$(if $(filter file,$(origin DATA)),,--data $(DATA)) $(if $(OUT),--out $(OUT))

bench-teaching: setup  ## Measure learning from the answers of a review, and answers meanwhile; OUT=file.json QUICK=1.
	$(BIN)/python experiments/benchmarks/teaching.py $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

bench-answers: setup  ## Measure answers on the review page with 24 to 400 labels; OUT=file.json QUICK=1.
	$(BIN)/python experiments/benchmarks/answers.py $(if $(QUICK),--quick) $(if $(OUT),--out $(OUT))

screenshots: setup  ## Make the screenshots of docs/images anew; RUN=run DATA=folder.
	$(BIN)/python docs/screenshots.py --run $(RUN) --data $(DATA)

dependencies: setup  ## Write down exact versions, hashes and licences anew: docs/constraints.txt, docs/dependencies.md.
	$(BIN)/pip install --quiet uv
	$(BIN)/python docs/dependencies.py

audit: setup  ## Ask PyPI's database for known vulnerabilities of docs/constraints.txt.
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement docs/constraints.txt

pretrained: setup  ## Make the models that come with the package anew, an hour and a half; DATA=folder.
	$(BIN)/python -m experiments.pretrained.run --data $(DATA)

# What tests use and needs root; a test that needs what is missing skips.
DEBIAN := chromium darktable exiv2 libimage-exiftool-perl postgresql
ci-system:  ## Install what needs root, from Debian's packages: Chromium, darktable, exiftool, exiv2, PostgreSQL, for tests.
	apt-get update
	apt-get install -y --no-install-recommends $(DEBIAN)

clean:  ## Remove the virtual environment, runs/demo and caches.
	rm -rf $(VENV) runs/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find mlcrf tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
