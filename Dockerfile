# A static binary in an empty image: no shell, no libc, nothing to update but keyward itself.
#
#   scripts/image.sh        or: docker build -t keyward .
FROM docker.io/library/rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev gcc g++ make cmake perl linux-headers
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY presets presets
# Benches are named in the manifest; cargo wants them to be there, and builds none of them.
COPY benches/*.rs benches/
# A secret service is a desktop's.
RUN cargo build --locked --release --no-default-features --bin keyward \
 && mkdir -p /image/etc/keyward /image/var/lib/keyward /image/run/keyward \
 && cp target/release/keyward /image/keyward \
 && chown -R 65532:65532 /image/var/lib/keyward /image/run/keyward \
 && chmod 0700 /image/var/lib/keyward

FROM scratch
COPY --from=build /image/ /
USER 65532:65532
WORKDIR /var/lib/keyward
VOLUME /var/lib/keyward
EXPOSE 8180 8181
STOPSIGNAL SIGTERM
ENTRYPOINT ["/keyward"]
CMD ["serve", "-c", "/etc/keyward/keyward.toml"]
