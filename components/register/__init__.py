"""Register one variant as an MLflow model version."""
