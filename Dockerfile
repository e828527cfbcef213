# nightporter in a small image: the program, a libc and nobody to log in as.
#
#   docker build -t nightporter .
#
# Both bases can be replaced, as by those of a mirror: the builder needs Rust, make
# and a C compiler, the runtime glibc and libgcc_s no older than the builder's.
ARG BUILDER_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12

FROM ${BUILDER_IMAGE} AS build
ARG PROFILE=dist
RUN command -v make > /dev/null \
    || { apt-get update && apt-get install --yes --no-install-recommends make; }
WORKDIR /build
# The allocator is built for one size of pages: with 64 KiB, an image for arm64 runs on
# every kernel, those of a Raspberry Pi 5 (16 KiB) too.
ENV AARCH64_UNKNOWN_LINUX_GNU_JEMALLOC_SYS_WITH_LG_PAGE=16

# The dependencies, in a layer that only a change of the manifest makes anew.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --locked --profile ${PROFILE} \
    && rm -r src

COPY build.rs ./
COPY config config
COPY src src
# Newer than what was built of the empty crate above.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --profile ${PROFILE} \
    && mkdir -p /root.d/usr/local/bin /root.d/etc/nightporter \
        /root.d/var/lib/nightporter/tls /root.d/var/lib/nightporter/ledger \
    && cp target/*/nightporter /root.d/usr/local/bin/

FROM ${RUNTIME_IMAGE}
COPY --from=build /root.d/usr/local/bin/nightporter /usr/local/bin/nightporter
COPY --from=build /root.d/etc/nightporter /etc/nightporter
COPY --from=build --chown=65532:65532 /root.d/var/lib/nightporter /var/lib/nightporter
# Relative paths of the configuration start here: `box`, `ledger` and `tls`.
WORKDIR /var/lib/nightporter
VOLUME ["/etc/nightporter", "/var/lib/nightporter"]
# The probes' listener stays on loopback, where the health check asks it.
# Beside itself it trusts the network `gate` of deploy/compose.yml, and not every
# container that reaches it.
ENV NIGHTPORTER_GATE__LISTEN=0.0.0.0:8400 \
    NIGHTPORTER_GATE__TRUSTED_PROXIES=127.0.0.0/8,::1/128,172.31.84.0/24
EXPOSE 8400
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s \
    CMD ["/usr/local/bin/nightporter", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/nightporter"]
