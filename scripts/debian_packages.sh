#!/usr/bin/env bash
# Install the Debian packages that tests need and this machine lacks, each by the command it brings.
set -euo pipefail

declare -A package=([chromium]=chromium [chromedriver]=chromium-driver [postgres]=postgresql
  [dockerd]=docker.io [mmdebstrap]=mmdebstrap [wget]=wget)
# Debian keeps PostgreSQL's programs off the PATH, and a user's PATH lacks the system's.
PATH=$PATH:/usr/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)
missing=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq)
[ "$(id -u)" -eq 0 ] || install=(sudo "${install[@]}")
if ! command -v apt-get >/dev/null; then
  echo "error: the tests need ${missing[*]}; install them with this system's package manager" >&2
  exit 2
fi
echo "installing ${missing[*]}"
"${install[@]}" update
"${install[@]}" install --no-install-recommends -y "${missing[@]}" >/dev/null
