#!/usr/bin/env bash
# Pulls every image twice through nginx and binaryrepo, prints both times, and what the file storage holds.
#
#   UPSTREAM   host, with port if need be, under which nginx answers  (docker-remote.binaryrepo.local)
#   IMAGES     images to pull, separated by blanks                    (alpine redis:7-alpine)
#   CERTS_DIR  where the CA lies that `make setup-certs` has made     (~/certs)
#   DATA_DIR   data directory of the server; by default the volume of docker-compose.yml, if that runs
#
# With docker, images are pulled into the daemon and removed in between; without, skopeo copies them to a temporary
# directory.
set -euo pipefail

upstream=${UPSTREAM:-docker-remote.binaryrepo.local}
images=${IMAGES:-alpine redis:7-alpine}
ca=${CERTS_DIR:-$HOME/certs}/ca.crt
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

if docker info >/dev/null 2>&1; then
    client=docker
elif command -v skopeo >/dev/null; then
    client=skopeo
else
    fail "neither a Docker daemon nor skopeo is here: apt-get install skopeo"
fi

code=$(curl -sS -o /dev/null -w '%{http_code}' $([ -s "$ca" ] && echo --cacert "$ca") "https://$upstream/v2/" \
    2>"$scratch/curl") || fail "https://$upstream/v2/ does not answer: $(cat "$scratch/curl")
Is nginx running (make up), does the name resolve (/etc/hosts), and is its CA in $ca?"
# 401: there are users, and it asks for a log-in; docker and skopeo answer with the one that they have.
[[ $code == 200 || $code == 401 ]] || fail "https://$upstream/v2/ answers $code instead of 200 or 401"

login=
[ "$code" = 200 ] || login=": there are users, so $client login $upstream may be missing"

# dockerd reads the CA of a registry from here at each pull.
trusted=/etc/docker/certs.d/$upstream/ca.crt
if [ $client = docker ] && [ -s "$ca" ] && ! cmp -s "$ca" "$trusted" 2>/dev/null; then
    [ -w /etc ] || fail "the daemon does not trust the CA yet: sudo install -Dm644 $ca $trusted"
    install -Dm644 "$ca" "$trusted"
fi

forget() {
    if [ $client = docker ]; then
        docker image rm -f "$1" >/dev/null 2>&1 || true
    else
        rm -rf "$scratch/image"
    fi
}

pull() {
    if [ $client = docker ]; then
        docker pull -q "$1" >/dev/null
    else
        mkdir -p "$scratch/trust"
        [ -s "$ca" ] && cp "$ca" "$scratch/trust/ca.crt"
        skopeo copy -q --src-cert-dir "$scratch/trust" "docker://$1" "dir:$scratch/image"
    fi
}

seconds() { # seconds COMMAND...: how long it took
    local started=$EPOCHREALTIME
    "$@" || return 1
    awk -v from="$started" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }'
}

printf '%-50s %10s %10s\n' "image, by $client through https://$upstream" first second
for image in $images; do
    full=$upstream/$image
    forget "$full"
    first=$(seconds pull "$full") || fail "the first pull of $full failed$login"
    forget "$full"
    second=$(seconds pull "$full") || fail "the second pull of $full failed"
    forget "$full"
    printf '%-50s %8s s %8s s\n' "$image" "$first" "$second"
done

echo
show='cd "$0" && find cas -type f -printf "%s %f\n" | sort -rn | awk '\''
    { bytes += $1; if (NR <= 10) printf "  %12d  %s\n", $1, $2 }
    END { printf "%d blobs, %d bytes in all\n", NR, bytes }'\'
if [ -n "${DATA_DIR:-}" ]; then
    echo "The storage in $DATA_DIR, the ten largest blobs first:"
    bash -c "$show" "$DATA_DIR"
elif container=$(docker ps -q --filter label=com.docker.compose.service=binaryrepo 2>/dev/null | head -1) && [ -n "$container" ]; then
    echo "The storage in the container, the ten largest blobs first:"
    docker exec "$container" bash -c "$show" /data
else
    echo "Say DATA_DIR=<data directory of the server> to see what its storage holds."
fi
