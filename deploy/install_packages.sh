#!/usr/bin/env bash
# Installs the Debian packages given, or those of a list beside this script (packages.txt); at once done when all are there.
#
# usage: install_packages.sh [PACKAGE ... | --list=packages-test.txt]
set -euo pipefail

packages=("$@") list=packages.txt
if [[ ${1-} == --list=* ]]; then
  list=${1#--list=} packages=()
fi
if [ ${#packages[@]} -eq 0 ]; then
  mapfile -t packages < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$(dirname "$0")/$list")
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed* ]] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "not root and no sudo; install by hand: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
