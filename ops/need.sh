#!/usr/bin/env bash
# Makes sure that commands are there: ops/need.sh nginx docker=docker.io ...
# Each argument is a command, with `=package` where Debian's package has another name. As root, or where sudo asks
# no password, missing packages are installed; otherwise they are named.
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin
packages=()
for need in "$@"; do
    command -v "${need%%=*}" >/dev/null || packages+=("${need##*=}")
done
[ ${#packages[@]} -gt 0 ] || exit 0

for package in "${packages[@]}"; do
    if [ "$package" = rustup ]; then
        echo "Rust is missing. Install it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh" >&2
        exit 1
    fi
done

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    if ! sudo -n true 2>/dev/null; then
        echo "missing: ${packages[*]}; install with: sudo apt-get install ${packages[*]}" >&2
        exit 1
    fi
fi
if ! command -v apt-get >/dev/null; then
    echo "missing (Debian's package names): ${packages[*]}" >&2
    exit 1
fi
echo "installing: ${packages[*]}"
# Packages that bring a service must not start it: while this file says 101, they do not.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin $policy
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
install_all() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null
}
install_all 2>/dev/null || { "${as_root[@]}" apt-get update -q >/dev/null; install_all; }
