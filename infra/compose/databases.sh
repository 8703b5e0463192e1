#!/bin/sh
# Run by PostgreSQL's image when its disk is empty: a user and a database for MLflow, its users, and Airflow.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres -v mlflow="$MLFLOW_DATABASE_PASSWORD" -v airflow="$AIRFLOW_DATABASE_PASSWORD" <<'SQL'
create user mlflow password :'mlflow';
create user airflow password :'airflow';
create database mlflow owner mlflow;
create database mlflow_users owner mlflow;
create database airflow owner airflow;
SQL
