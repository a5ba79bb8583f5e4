# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
# A mirror near you: docker build --build-arg PIP_INDEX_URL=https://mirror.example.com/simple .
ARG PIP_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/image.txt .ci/build.txt .ci/
COPY batch batch
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r .ci/build.txt \
 && /opt/build/bin/hatchling build -t wheel \
 && python -m venv /opt/zclone \
 && /opt/zclone/bin/pip install --no-cache-dir --no-compile --require-hashes -r .ci/image.txt \
 && /opt/zclone/bin/pip install --no-cache-dir --no-compile --no-deps dist/*.whl

FROM python:3.12-slim
LABEL org.opencontainers.image.title="zclone" \
      org.opencontainers.image.description="Clones ZStack AIOS model services in bulk, exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONUNBUFFERED=1 PYTHONUTF8=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/zclone/bin:$PATH
COPY --from=build /opt/zclone /opt/zclone
# Job files in, manifests out. A number, so that Kubernetes' runAsNonRoot can check it.
RUN mkdir /work && chown 65532:65532 /work
VOLUME /work
WORKDIR /work
USER 65532:65532
# zclone handles SIGTERM itself, also as PID 1: it settles what is in flight and exits 4 (give it --stop-timeout 60).
STOPSIGNAL SIGTERM
ENTRYPOINT ["zclone"]
CMD ["--help"]
