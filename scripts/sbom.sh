#!/usr/bin/env bash
# List what each lock pins, as CycloneDX JSON held against its schema: scripts/sbom.sh FOLDER, by default dist/.
# Images bring their own list, of what is installed: /usr/share/sbom/*.cdx.json.
set -euo pipefail
folder=$(realpath -m "${1:-dist}")
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet -r requirements/sbom.txt
mkdir -p "$folder"
export PYTHONWARNINGS=ignore::UserWarning:cyclonedx.model.bom # a lock does not tell who asked for what
for lock in ml airflow kfp; do
  "$scratch/venv/bin/cyclonedx-py" requirements "requirements/$lock.txt" --pyproject pyproject.toml \
    --output-reproducible --output-format JSON --spec-version 1.6 --validate --output-file "$folder/$lock.cdx.json"
done
