#!/bin/sh
# Install a list of packages into /opt/venv as the lock pins them, without what no image uses, and list what is there.
# Runs in a build with the stage `tools` mounted at /tools: pip and its like are in no image.
set -eu
tools=/tools/opt/tools/bin/python
$tools -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
  --constraint "/tools/packages/$2" -r "/tools/packages/$1"
# Packages' own tests, headers and static libraries, Ray's Java, and clients of Amazon's services that nobody here calls.
cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -depth -type d \( -name tests -o -name jars \) -exec rm -r {} +
find . -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.pyx' \) -delete
if [ -d botocore/data ]; then
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3*' ! -name 'sts' ! -name 'sso*' ! -name 'signin' \
    -exec rm -r {} +
fi
mkdir -p /usr/share/sbom
$tools -m cyclonedx_py environment --output-reproducible --output-format JSON --spec-version 1.6 \
  --output-file /usr/share/sbom/packages.cdx.json /opt/venv/bin/python
