# Thin: each target is a line or two. `make demo` and `make test` need nothing but Linux and Python 3.11.
PYTHON ?= python3
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test check ui airflow render bench images sbom clean lock format python

demo: .venv/.ready ## the whole pipeline on the built-in dataset, to a registered model
	dvc repro
	python scripts/summary.py

test: .venv/.ready .venv-airflow/.ready .venv-kfp/.ready ## every test, each in its environment
	scripts/debian_packages.sh
	scripts/infra_tools.sh
	.venv-kfp/bin/python -m pytest tests/kfp
	.venv-airflow/bin/python -m pytest tests/dags
	.venv/bin/python -m pytest tests

check: .venv/.ready .venv-kfp/.ready ## style, types, generated files
	ruff check . && ruff format --check . && mypy
	.venv/bin/python -m pipelines.render dvc --check
	.venv-kfp/bin/python -m pipelines.render kfp --check

render: .venv/.ready .venv-kfp/.ready ## write the generated files
	.venv/bin/python -m pipelines.render dvc
	.venv-kfp/bin/python -m pipelines.render kfp

ui: .venv/.ready ## MLflow on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --host 127.0.0.1 --port 5000 \
	  --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --default-artifact-root file://$(CURDIR)/mlartifacts

airflow: .venv/.ready .venv-airflow/.ready ## Airflow on http://127.0.0.1:8080
	.venv-airflow/bin/python scripts/airflow.py

bench: .venv/.ready ## speed, measured side by side
	for name in training_step inference evaluation coco_metric data_loading checkpoint_stall study gates export s3_workspace gpu; do \
	  .venv/bin/python benchmarks/$$name.py || exit 1; done

images: ## every image but train-gpu
	for target in data train-cpu export mlflow airflow; do \
	  DOCKER_BUILDKIT=1 docker build -f infra/docker/Dockerfile --target $$target \
	    --build-arg GIT_COMMIT=$$(git rev-parse HEAD) -t $$($(PYTHON) -c 'import pipelines; print(pipelines.IMAGE)')-$$target . || exit 1; \
	done

sbom: ## what each environment holds, as CycloneDX, in dist/
	scripts/sbom.sh dist

format: .venv/.ready
	ruff check --fix . && ruff format .

lock: ## resolve the extras anew and write requirements/*.txt
	scripts/lock.sh

clean: ## everything that the pipeline wrote; environments stay
	rm -rf data models reports exports registry runs mlflow.db mlartifacts airflow dist .engine

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, \
	this is %d.%d; name one: make PYTHON=python3.11" % sys.version_info[:2])'

# One environment per lock, because their pins disagree. The stamp is newer than the lock it was made from.
define environment
$(1)/.ready: requirements/$(2).txt | python
	$$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet -r $$<
	$(1)/bin/pip install --quiet --no-deps -e .
	touch $$@
endef
$(eval $(call environment,.venv,ml))
$(eval $(call environment,.venv-airflow,airflow))
$(eval $(call environment,.venv-kfp,kfp))
