#!/usr/bin/env bash
# Makes a certificate authority of your own and a server certificate for nginx. Run again, it keeps what is valid.
set -euo pipefail

dir=${CERTS_DIR:-$HOME/certs}
names=${CERT_NAMES:-DNS:binaryrepo.local,DNS:*.binaryrepo.local,DNS:docker-remote.example.com,DNS:localhost,IP:127.0.0.1,IP:::1}
day=86400

command -v openssl >/dev/null || { echo "openssl is missing: apt-get install openssl" >&2; exit 1; }
umask 077
mkdir -p "$dir"
cd "$dir"
# Readable where nginx's workers or a container's user look in; the keys stay 0600.
chmod 755 .

if [ -s ca.key ] && openssl x509 -in ca.crt -noout -checkend $((30 * day)) >/dev/null 2>&1; then
    echo "kept  $dir/ca.crt"
else
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -out ca.crt -subj "/CN=binaryrepo local CA" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
    rm -f server.crt
    echo "made  $dir/ca.crt"
fi

good_server() {
    [ -s server.key ] && [ "$(cat server.names 2>/dev/null)" = "$names" ] &&
        openssl x509 -in server.crt -noout -checkend $((30 * day)) >/dev/null 2>&1 &&
        openssl verify -CAfile ca.crt server.crt >/dev/null 2>&1
}

if good_server; then
    echo "kept  $dir/server.crt"
else
    openssl ecparam -name prime256v1 -genkey -noout -out server.key
    extensions=$(mktemp)
    trap 'rm -f "$extensions" server.csr' EXIT
    printf '%s\n' "subjectAltName=$names" "basicConstraints=critical,CA:FALSE" \
        "keyUsage=critical,digitalSignature" "extendedKeyUsage=serverAuth" >"$extensions"
    openssl req -new -key server.key -subj "/CN=binaryrepo.local" -out server.csr
    # 397 days: what browsers and Apple's clients accept at most.
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days 397 \
        -extfile "$extensions" -out server.crt 2>/dev/null
    printf '%s\n' "$names" >server.names
    echo "made  $dir/server.crt for $names"
fi
chmod 644 ca.crt server.crt server.names

cat <<END

nginx uses   $dir/server.crt and $dir/server.key
Trust the CA where clients run (ca.key never leaves this directory):
  docker      sudo install -Dm644 $dir/ca.crt /etc/docker/certs.d/docker-remote.binaryrepo.local/ca.crt
              one directory per name that you pull from; no restart needed
  podman      sudo install -Dm644 $dir/ca.crt /etc/containers/certs.d/docker-remote.binaryrepo.local/ca.crt
  containerd  ca = "$dir/ca.crt" in hosts.toml
  everything  sudo install -m644 $dir/ca.crt /usr/local/share/ca-certificates/binaryrepo.crt && sudo update-ca-certificates
              then restart dockerd and containerd
Names without DNS:
  echo "127.0.0.1 binaryrepo.local api.binaryrepo.local docker-remote.binaryrepo.local docker-local.binaryrepo.local docker-remote.example.com" | sudo tee -a /etc/hosts
END
