#!/usr/bin/env bash
# Runs the official conformance suite of the OCI distribution-spec against servers of its own: directly, and through
# nginx with TLS and a log-in. Where all is well it writes docs/conformance.md. The last line is the sum,
# `N passed, N failed, N skipped`; a failure is also what was skipped for a reason that is not written down below.
#
#   ops/conformance.sh BINARY      CONFORMANCE=PROGRAM uses a suite that is installed already
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$1
# Version 1.1.1 of the specification. Its own tag has an older suite; this one tests 1.1 by default, and much more.
suite=github.com/opencontainers/distribution-spec/conformance
version=v0.0.0-20260831232431-97274622c111
out=$PWD/target/conformance
page=docs/conformance.md
work=$(mktemp -d)
pids=()

# What is on besides the suite's own choice for 1.1, which has all but these on: then every one is.
switches=(OCI_VERSION=1.1 OCI_API_BLOBS_DIGEST_HEADER=true OCI_API_BLOBS_UPLOAD_CANCEL=true
    OCI_API_MANIFESTS_DIGEST_HEADER=true OCI_API_MANIFESTS_TAG_PARAM=true OCI_DATA_SPARSE=true)

# Why something is not tested. What is not named here must be.
declare -A reasons=(
    ["Blob anonymous mount"]="logged in, the suite shows a ticket for the one image it pushes to, which names no source
        that may be read; the answer is an upload, as the specification has it. Without a log-in it passes."
)

finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT

not_run() {
    printf 'conformance: not run: %s\n' "$1" >&2
    exit 1
}

find_suite() {
    [ -z "${CONFORMANCE:-}" ] || return 0
    command -v go >/dev/null || not_run "the suite is a Go program, and Go is missing (apt-get install golang, or go.dev/dl)"
    CONFORMANCE=$out/$version/conformance
    [ -x "$CONFORMANCE" ] || GOBIN=$out/$version go install "$suite@$version" ||
        not_run "$suite@$version cannot be installed by its module path; CONFORMANCE=PROGRAM names one that is there"
}

# Which suite it is: the version by which it was installed, or the commit from which it was built.
identity() {
    go version -m "$CONFORMANCE" 2>/dev/null |
        awk '$1 == "mod" { version = $3 } $2 ~ /^vcs.revision=/ { sub(/.*=/, "", $2); version = "commit " substr($2, 1, 12) }
            END { print version ? version : "of an unknown version" }'
}

serve() { # serve NAME FLAGS...: starts a server that takes sparse manifests; $server is its address
    local name=$1
    shift
    "$binary" serve --listen 127.0.0.1:0 --data-dir "$work/$name" "$@" >"$out/$name.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 100); do
        server=$(grep -oE '127\.0\.0\.1:[0-9]+' "$out/$name.log" | head -1) || true
        [ -z "$server" ] || break
        sleep 0.1
    done
    if [ -n "$server" ]; then
        "$binary" repo update docker-local --sparse-manifests --data-dir "$work/$name" >"$out/$name.repository"
        return
    fi
    echo "conformance: the server did not start" >&2
    cat "$out/$name.log" >&2
    exit 1
}

# The configuration that is shipped, but for its ports and places.
front() { # front SERVER: starts nginx; $port is where
    local etc=$work/etc/binaryrepo
    mkdir -p "$etc" "$work/run"
    cp nginx/*.conf "$etc"
    cp -r "$work/certs" "$etc/certs"
    port=$((20000 + RANDOM % 10000))
    sed -i "s/^server .*/server $1;/" "$etc/upstream.conf"
    sed -i "s/listen 443/listen 127.0.0.1:$port/; /listen \[::\]/d" "$etc/server.conf"
    sed -i "s/listen 80;/listen 127.0.0.1:$((port + 1));/; /listen \[::\]/d" "$etc/binaryrepo.conf"
    {
        [ "$(id -u)" != 0 ] || echo "user root;"
        echo "daemon off; pid $work/run/pid; error_log $out/nginx.log; events {}"
        echo "http {"
        echo "    access_log off;"
        for kind in client_body proxy fastcgi uwsgi scgi; do echo "    ${kind}_temp_path $work/run/$kind;"; done
        echo "    include binaryrepo/include.conf;"
        echo "}"
    } >"$work/etc/nginx.conf"
    PATH=$PATH:/usr/sbin nginx -c "$work/etc/nginx.conf" -p "$work" >"$out/nginx.start" 2>&1 &
    pids+=($!)
    for _ in $(seq 50); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    echo "conformance: nginx did not start" >&2
    cat "$out/nginx.start" >&2
    exit 1
}

value() { # value RUN ROW: of the suite's report
    awk -v row="$2" '{ line = $0; sub(/^  /, "", line); name = line; sub(/\.*: +[^ ]+$/, "", name) }
        name == row && line != name { print $NF; exit }' "$out/$1.txt"
}

rows() { # rows PART: the names in a part of the suite's report
    awk -v part="^$1 conformance:" '$0 ~ part { on = 1; next } /^$/ { on = 0 }
        on { sub(/^  /, ""); sub(/\.*: +[^ ]+$/, ""); print }' "$out/direct.txt"
}

passed=0 failed=0 skipped=0
run() { # run NAME ENVIRONMENT...: the suite's report goes to $out/NAME.txt
    local name=$1 ended=0 bad
    shift
    printf '\n== conformance, %s\n' "$name"
    env "${switches[@]}" OCI_RESULTS_DIR="$out/$name" "$@" "$CONFORMANCE" >"$out/$name.txt" 2>&1 || ended=$?
    sed -n '/^OCI Conformance Result/,/^$/p' "$out/$name.txt"
    if [ -z "$(value "$name" Pass)" ]; then
        cat "$out/$name.txt" >&2
        failed=$((failed + 1))
        return
    fi
    bad=$(($(value "$name" FAIL) + $(value "$name" Error)))
    [ "$ended" = 0 ] || [ "$bad" != 0 ] || bad=1
    [ "$bad" = 0 ] || grep -E ': (FAIL|Error)$|failed test' "$out/$name.txt" | head -40 >&2
    passed=$((passed + $(value "$name" Pass)))
    failed=$((failed + bad))
    skipped=$((skipped + $(value "$name" Skip) + $(value "$name" Disabled)))
}

explain() { # the reason for each row that did not pass
    local row part direct nginx
    for part in API Data; do
        rows $part | while IFS= read -r row; do
            direct=$(value direct "$row") nginx=$(value nginx "$row")
            [ "$direct $nginx" != "Pass Pass" ] || continue
            [ -n "${reasons[$row]:-}" ] || echo "conformance: FAILED: $row is $direct and $nginx, for no known reason" >&2
            wrap <<<"- $row ($direct, $nginx): ${reasons[$row]:-no known reason}"
        done
    done
}

wrap() { # one paragraph, whatever its lines were
    tr -s ' \n' ' ' | fmt -w 119
}

report() {
    printf '# Conformance\n\n'
    wrap <<END
Made by \`make conformance\` on $(date -u +%F) for $("$binary" --version): the official suite of the OCI
distribution-spec (\`$suite\`, $(identity)) at version 1.1. *direct* is HTTP from the same machine; *nginx* goes through
nginx with TLS and the configuration in \`nginx/\`, logged in with a password.
END
    cat <<END

Every API and data switch of the suite is on: sha512 and atomic deletion, and also what it leaves off for 1.1 by itself,
which is cancelled uploads, tags as parameters of a push, required digest headers, and sparse manifests (the repository
has \`sparse_manifests\`).

| | direct | nginx |
|---|---|---|
END
    local row part
    for row in Pass FAIL Error Skip Disabled Total; do
        echo "| $row | $(value direct $row) | $(value nginx $row) |"
    done
    for part in API Data; do
        printf '\n## %s\n\n| | direct | nginx |\n|---|---|---|\n' $part
        rows $part | while IFS= read -r row; do
            echo "| $row | $(value direct "$row") | $(value nginx "$row") |"
        done
    done
    printf '\n## Not tested\n\n'
    explain
}

mkdir -p "$out"
find_suite
ops/need.sh nginx openssl
images=(OCI_REPO1=docker-local/c/r1 OCI_REPO2=docker-local/c/r2)

serve direct
run direct "OCI_REGISTRY=$server" OCI_TLS=disabled "${images[@]}"

CERTS_DIR=$work/certs ops/setup-certs.sh >/dev/null
printf 'correct horse battery staple' >"$work/password"
BINARYREPO_ADMIN_USER=ada BINARYREPO_ADMIN_PASSWORD_FILE=$work/password \
    serve users --set server.trusted_proxies=127.0.0.1
front "$server"
run nginx "OCI_REGISTRY=localhost:$port" OCI_TLS=enabled "SSL_CERT_FILE=$work/certs/ca.crt" \
    OCI_USERNAME=ada "OCI_PASSWORD=$(cat "$work/password")" "${images[@]}"

if [ "$failed" = 0 ]; then
    report >"$out/page" 2>"$out/unexplained"
    cat "$out/unexplained" >&2
    failed=$(wc -l <"$out/unexplained")
    [ "$failed" != 0 ] || cp "$out/page" "$page"
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
