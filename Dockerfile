# The container image; how to build, run and stop it: docs/how-to/run-in-a-container.md.
# No step needs anything but this repository, the base image and a package index. tests/container runs these very
# steps without a container engine and knows the instructions used here, no others.

# A build that can be repeated names the digest: --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# First what changes rarely. /opt/build holds pip and the build backend and is left behind.
COPY container/build.lock container/image.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r build.lock \
 && python -m venv --without-pip /opt/spillway \
 && /opt/build/bin/python -m pip --python /opt/spillway/bin/python install \
    --require-hashes --only-binary :all: --no-compile -r image.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
# Unchecked bytecode: nothing here changes any more, and a file's time need not survive the copy.
RUN /opt/build/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
 && /opt/build/bin/python -m pip --python /opt/spillway/bin/python install \
    --no-index --no-deps --no-compile dist/spillway-*.whl \
 && /opt/spillway/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/spillway/lib

FROM ${PYTHON_IMAGE} AS final
# The base image has no bytecode of the standard library (on a read-only root each start would compile it anew),
# but it has pip, which nothing here needs.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/site-packages/pip* /usr/local/lib/python3.*/ensurepip \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -x 'site-packages|dist-packages|/test/|idlelib|tkinter|turtledemo' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=builder /opt/spillway /opt/spillway
ENV PATH=/opt/spillway/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 HOME=/tmp
WORKDIR /etc/spillway
# A number, so that an orchestrator can see that it is not root; it needs no entry in /etc/passwd.
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/opt/spillway/bin/python", "-m", "gateway.admin.ask", "/livez"]
ENTRYPOINT ["/opt/spillway/bin/spillway"]
CMD ["serve", "-c", "/etc/spillway/spillway.yaml"]

ARG PYTHON_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Spillway" \
      org.opencontainers.image.description="Layer-7 gateway for model inference" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
