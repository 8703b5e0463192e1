"""STAGES to Airflow tasks, forms to command lines. The only part of `pipelines` that imports airflow."""
