#!/bin/sh
# Install a list of packages into /opt/venv as a lock pins them, without what no image uses, and list what is there.
#   install.sh LIST LOCK
# Runs in a build with the stage `tools` mounted at /tools: pip and its like are in no image.
set -eu
tools=/tools/opt/tools/bin/python
venv=${VENV:-/opt/venv}
$tools -m pip --python "$venv/bin/python" install --no-cache-dir --disable-pip-version-check \
  --constraint "/tools/packages/$2" -r "/tools/packages/$1"
cd "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# Packages' own tests, what only compilers, type checkers and debuggers read, and libraries of Ray and Arrow that nobody
# here imports.
find . -depth -type d -name tests -exec rm -r {} +
find . -type f \( -name '*.[ach]' -o -name '*.hpp' -o -name '*.px[di]' -o -name '*.py[ix]' -o -name '*.map' \) -delete
rm -rf ray/jars ray/rllib ray/llm
rm -f pyarrow/libarrow_flight* pyarrow/_flight*
# Clients of Amazon's services other than S3 and its logins.
if [ -d botocore/data ]; then
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3*' ! -name sts ! -name 'sso*' ! -name signin \
    -exec rm -r {} +
fi
# Symbols that only debuggers read; libraries in *.libs, and torch's own, come without.
find . \( -name '*.libs' -o -path './torch' -o -path './nvidia' -o -path './triton' -o -path './cuda' \) -prune -o \
  -type f \( -name '*.so' -o -name '*.so.*' -o -path './ray/core/src/ray/*' \) -size +300k \
  -exec env LD_LIBRARY_PATH="/tools/usr/lib/$(uname -m)-linux-gnu" /tools/usr/bin/strip --strip-unneeded {} +

mkdir -p /usr/share/sbom
$tools -m cyclonedx_py environment --output-reproducible --output-format JSON --spec-version 1.6 \
  --output-file "/usr/share/sbom/$(basename "$venv").cdx.json" "$venv/bin/python"
