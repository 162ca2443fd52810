# An image around the binary that `make build` made. Without a Rust toolchain: ops/docker/Dockerfile.source.
FROM debian:bookworm-slim

RUN groupadd --gid 10001 binaryrepo \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin binaryrepo \
    && install -d -o binaryrepo -g binaryrepo -m 0750 /data

COPY target/dist/binaryrepo /usr/local/bin/binaryrepo

ENV BINARYREPO_SERVER__LISTEN=0.0.0.0:8081 \
    BINARYREPO_STORAGE__PATH=/data
USER binaryrepo
VOLUME /data
EXPOSE 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["binaryrepo", "healthcheck"]
ENTRYPOINT ["binaryrepo"]
CMD ["serve"]
