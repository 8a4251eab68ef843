# The image of img2text: the binary, Tesseract with English, Russian and script detection, nothing
# else. It wants a Redis: IMG2TEXT_REDIS_URL (deploy/compose.yaml brings one).
#
#   docker build -t img2text .
#   docker build -t img2text --build-arg TESSERACT=packaged .
#
# TESSERACT=built (the default) builds Debian's own Tesseract 5.5.0 without OpenMP, which a pool of
# processes has no use for, and with 32-bit floats: the same text, faster (README, "Speed").
ARG TESSERACT=built

FROM rust:1.95-slim-trixie AS tools
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      build-essential clang libclang-dev pkg-config libleptonica-dev \
 && rm -rf /var/lib/apt/lists/*

FROM tools AS tesseract-packaged
RUN apt-get update \
 && apt-get install -y --no-install-recommends libtesseract-dev \
 && rm -rf /var/lib/apt/lists/* \
 # What the final image has to carry: the libraries that it cannot have from its own packages.
 && mkdir -p /opt/tesseract/lib

FROM tools AS tesseract-built
ARG TESSERACT_SHA256=f2fb34ca035b6d087a42875a35a7a5c4155fa9979c6132365b1e5a28ebc3fc11
WORKDIR /tmp/tesseract
# The upstream tarball as Debian keeps it. Its sources have to be listed first: the public image
# does not, and has its list in another form than older ones.
RUN for list in /etc/apt/sources.list.d/debian.sources; do \
      [ ! -f "$list" ] || sed -i 's/^Types: deb$/Types: deb deb-src/' "$list"; \
    done \
 && apt-get update \
 && apt-get install -y --no-install-recommends cmake \
 && uri=$(apt-get source --print-uris tesseract=5.5.0-1 | grep -o "http[^']*orig.tar.gz") \
 && /usr/lib/apt/apt-helper download-file "$uri" tesseract.tar.gz "SHA256:$TESSERACT_SHA256" \
 && rm -rf /var/lib/apt/lists/*
RUN tar -xzf tesseract.tar.gz --strip-components=1 \
 && cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/opt/tesseract \
      -DBUILD_SHARED_LIBS=ON -DOPENMP_BUILD=OFF -DFAST_FLOAT=ON -DENABLE_LTO=ON \
      -DBUILD_TRAINING_TOOLS=OFF -DGRAPHICS_DISABLED=ON -DDISABLE_CURL=ON -DDISABLE_ARCHIVE=ON \
 && cmake --build build --parallel "$(nproc)" \
 && cmake --install build \
 && rm -rf /tmp/tesseract

FROM tesseract-$TESSERACT AS build
ENV PKG_CONFIG_PATH=/opt/tesseract/lib/pkgconfig LD_LIBRARY_PATH=/opt/tesseract/lib
WORKDIR /src
# The dependencies first: they change less often than our own code, and take longer.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests benches \
 && echo 'fn main() {}' | tee src/main.rs build.rs >/dev/null \
 && touch src/lib.rs tests/main.rs \
 && grep -o '^name = "[a-z_-]*"' Cargo.toml | sed 's/name = "\(.*\)"/\1/' \
      | while read -r name; do touch "benches/$name.rs"; done \
 && cargo build --release --locked --bin img2text \
 && rm -rf src build.rs
COPY build.rs ./
COPY proto proto
COPY deploy/plans.toml deploy/plans.toml
COPY src src
# Newer than the stand-ins above, whatever the time of their checkout.
RUN find build.rs src proto -exec touch {} + \
 && cargo build --release --locked --bin img2text \
 && strip --strip-debug target/release/img2text \
 && cp target/release/img2text /usr/local/bin/img2text

FROM debian:trixie-slim
ARG TESSERACT
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      libleptonica6 libstdc++6 tesseract-ocr-eng tesseract-ocr-rus tesseract-ocr-osd \
      $([ "$TESSERACT" = built ] || echo libtesseract5) \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --user-group --home-dir /nonexistent img2text
COPY --from=build /opt/tesseract/lib /opt/tesseract/lib
COPY --from=build /usr/local/bin/img2text /usr/local/bin/img2text
ENV LD_LIBRARY_PATH=/opt/tesseract/lib \
    TESSDATA_PREFIX=/usr/share/tesseract-ocr/5/tessdata \
    IMG2TEXT_SERVER_LISTEN=0.0.0.0:50051
USER img2text
EXPOSE 50051
# Drains: finishes what runs, for server.drain_ms_max at most.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["img2text", "health"]
ENTRYPOINT ["img2text"]
CMD ["serve"]
