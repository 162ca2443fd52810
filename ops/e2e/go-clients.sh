#!/usr/bin/env bash
# Builds the clients that are Go programs: ops/e2e/go-clients.sh everyday|nightly|imagecopy|cosign-2|cosign-3
# Their versions stand in ops/e2e/clients/SET/go.mod, what they must hash to in go.sum beside it. The programs go into
# target/clients/SET and are built anew only when something there has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

set=${1:?which set: everyday, nightly, imagecopy, cosign-2 or cosign-3}
module=ops/e2e/clients/$set
target=$PWD/target/clients/$set
stamp=$target/built-from

sum=$(find "$module" -type f | sort | xargs cat | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ]; then
    exit 0
fi
PATH=$PATH:/usr/local/go/bin
if ! command -v go >/dev/null; then
    echo "Go is missing, and with it crane, regctl, oras, helm and their like: install it from https://go.dev/dl/" >&2
    exit 1
fi
echo "building clients ($set) with $(go version)"
rm -rf "$target"
mkdir -p "$target"
# Without C: the programs run wherever they are copied, and need no compiler.
flags=(-mod=readonly -trimpath -tags=containers_image_openpgp -ldflags='-s -w')
(cd "$module" && CGO_ENABLED=0 GOBIN=$target go install "${flags[@]}" tool) \
    >"$target/log" 2>&1 || { tail -20 "$target/log" >&2; exit 1; }
echo "$sum" >"$stamp"
