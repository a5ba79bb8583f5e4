# syntax=docker/dockerfile:1
# By digest (the index of all architectures), so that nobody changes what is below. docker buildx imagetools inspect
# python:3.12-slim shows a newer one, and docker build --build-arg PYTHON=python:3.12-slim@sha256:... takes it.
ARG PYTHON=python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea
# pip compiles to bytecode here: the image's user cannot write it, and without it each start takes seconds.
FROM ${PYTHON} AS build
# A mirror near you: docker build --build-arg PIP_INDEX_URL=https://mirror.example.com/simple .
ARG PIP_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/image.txt .ci/build.txt .ci/tracked.py .ci/
COPY batch batch
COPY jobs jobs
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r .ci/build.txt \
 && /opt/build/bin/hatchling build -t wheel \
 && python -m venv /opt/zclone \
 && /opt/zclone/bin/pip install --no-cache-dir --require-hashes -r .ci/image.txt \
 && /opt/zclone/bin/pip install --no-cache-dir --no-deps dist/*.whl

FROM ${PYTHON}
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
