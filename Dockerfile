# A static binary in an empty image. Plain syntax: no BuildKit needed.
#
#     docker build --tag signpost .
#     docker run --publish 8080:8080 signpost --backend https://a.example.com

ARG RUST_VERSION=1.95

FROM docker.io/library/rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
# `--target` keeps `+crt-static` from proc-macros and build scripts: a proc-macro cannot be static.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --locked --release --bin signpost --target "$target" --target-dir /target \
    && cp "/target/$target/release/signpost" /signpost

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="signpost" \
      org.opencontainers.image.description="HTTP redirect dispatcher" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /signpost /signpost
# Loopback inside a container cannot be reached; who may reach 9090 is decided by what is published.
ENV SIGNPOST__ADMIN__LISTEN=0.0.0.0:9090
# A number: there is no /etc/passwd, and Kubernetes' `runAsNonRoot` wants one.
USER 65532:65532
EXPOSE 8080 8443 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/signpost", "healthcheck"]
ENTRYPOINT ["/signpost"]
