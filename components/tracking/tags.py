"""Names of the tags and the alias that this project's runs and models bear in MLflow."""

from __future__ import annotations

TAG_RUN = "pipeline.run_id"
TAG_ROLE = "pipeline.role"  # "pipeline" on the parent, "stage" on a child
TAG_STAGE = "pipeline.stage"
TAG_VARIANT = "pipeline.variant"
TAG_ORCHESTRATOR = "pipeline.orchestrator"
TAG_TRIAL = "pipeline.trial"
TAG_HELD = "pipeline.held"  # "yes" on a parent that an orchestrator ends, and no stage
TAG_ATTEMPT = "pipeline.attempt"
TAG_CHANGED = "pipeline.changed_params"
TAG_DATASET = "dataset.digest"
TAG_PARENT = "mlflow.parentRunId"
ALIAS_CHAMPION = "champion"
TAG_MODEL = "model.digest"
