#!/usr/bin/env bash
# Makes, on a machine that can reach a Debian mirror but no registry, the base image that the Dockerfiles name, and
# loads it into the Docker daemon, over whatever had that name there. It is kept in a cache directory; with that a
# second run takes a second.
#
#   CACHE_DIR   where the archive is kept       (target/base-images)
#   MIRROR      a Debian mirror                 (debootstrap's own)
#   DOCKER      the client                      (docker)
set -euo pipefail

cache=${CACHE_DIR:-target/base-images}
mirror=${MIRROR:-}
docker=${DOCKER:-docker}
image=debian:bookworm-slim
archive=$cache/debian-bookworm-nginx.tar

# nginx is part of the archive, because containers need not reach the mirror while they are built;
# Dockerfile.nginx installs it only where it is missing.
if [ ! -s "$archive" ]; then
    [ "$(id -u)" = 0 ] || { echo "debootstrap needs root: sudo $0" >&2; exit 1; }
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 1; }
    mkdir -p "$cache"
    tree=$(mktemp -d "$(realpath "$cache")/tree.XXXXXX")
    trap 'rm -rf "$tree" "$archive.part"' EXIT
    debootstrap --variant=minbase --include=nginx bookworm "$tree" ${mirror:+"$mirror"} >"$cache/debootstrap.log" 2>&1 ||
        { tail -20 "$cache/debootstrap.log" >&2; exit 1; }
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale}/*
    tar -C "$tree" --numeric-owner -cf "$archive.part" .
    mv "$archive.part" "$archive"
fi

sum=$(sha256sum "$archive" | cut -d' ' -f1)
have=$($docker image inspect --format '{{index .Config.Labels "binaryrepo.archive"}}' "$image" 2>/dev/null || true)
if [ "$have" = "$sum" ]; then
    echo "kept $image"
else
    $docker import --change "LABEL binaryrepo.archive=$sum" --change 'CMD ["bash"]' "$archive" "$image" >/dev/null
    echo "made $image from $archive"
fi
