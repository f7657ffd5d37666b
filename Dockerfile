# moverank in a container.
#
#   docker build -t moverank:cpu .                  the CPU image (the last stage)
#   docker build -t moverank:gpu --target gpu .     the NVIDIA image: CUDA builds of PyTorch and FAISS
#
# What changes least is copied first: base image, dependencies, then models, code and samples. The dependency layer
# hangs on the list of requirements alone, so an edit of the code, or of a tool's settings in pyproject.toml, rebuilds
# no dependency. What builds stays in the build stages; the last stages hold one virtual environment and no installer.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The requirement lists, read from pyproject.toml: one file for each target, one for the build itself.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml ./
RUN python -c "import pathlib, tomllib; \
    declared = tomllib.loads(pathlib.Path('pyproject.toml').read_text()); \
    project = declared['project']; \
    lists = {extra: project['dependencies'] + project['optional-dependencies'][extra] for extra in ('cpu', 'gpu')}; \
    lists['build'] = declared['build-system']['requires']; \
    [pathlib.Path(name + '.txt').write_text('\n'.join(lines) + '\n') for name, lines in lists.items()]" \
    && rm pyproject.toml

# Where pip works. PIP_INDEX_URL, when given, names a mirror of the package registry.
FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
WORKDIR /build

# PyTorch's CPU build is a tenth of the CUDA build that the package registry serves for x86-64 Linux, and lives on
# PyTorch's own index. uv knows that index; TORCH_INDEX_URL names a mirror of it. Where neither can be reached, the
# registry's build serves too: it runs on the CPU as well, and makes the image several GB larger.
FROM build AS build-cpu
ARG TORCH_INDEX_URL
COPY --from=requirements /requirements/cpu.txt ./
# hadolint ignore=DL3013
RUN pip install uv==0.13.8 \
    && torch="$(grep '^torch==' cpu.txt)" \
    && if [ -n "${TORCH_INDEX_URL:-}" ]; then \
         pip --python /opt/venv/bin/python install --no-deps --index-url "$TORCH_INDEX_URL" "$torch"; \
       else \
         uv pip install --python /opt/venv/bin/python --no-cache --no-deps --torch-backend cpu "$torch" \
         || { echo "PyTorch's CPU index cannot be reached: taking $torch from the package registry" >&2; \
              pip --python /opt/venv/bin/python install "$torch"; }; \
       fi \
    && pip --python /opt/venv/bin/python install -r cpu.txt

FROM build AS build-gpu
COPY --from=requirements /requirements/gpu.txt ./
RUN pip --python /opt/venv/bin/python install -r gpu.txt

# The project itself: code, model weights, samples and web page as an installed package, without its dependencies.
FROM build AS package
COPY --from=requirements /requirements/build.txt ./
RUN pip --python /opt/venv/bin/python install -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY models ./models
COPY scripts ./scripts
COPY service ./service
RUN pip --python /opt/venv/bin/python install --no-deps --no-build-isolation --prefix /package .

# What both images share: an ordinary user, one folder to write to, how to ask whether it is ready, how to stop it.
FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="moverank" \
      org.opencontainers.image.description="Text-similarity retrieval microservice, Chinese first" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 10001 moverank \
    && useradd --no-log-init --uid 10001 --gid moverank --no-create-home --home-dir /data --shell /usr/sbin/nologin moverank \
    && install --directory --owner moverank --group moverank /data
# Nothing leaves the machine: no model hub is asked, and ONNX Runtime reports to nobody.
# 0.0.0.0 is the inside of the container; who can reach it is decided where the port is published. So the service wants
# MOVERANK_API_KEYS, or MOVERANK_OPEN=true from whoever publishes it to a safe place only, as docker-compose.yml does.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MOVERANK_HOST=0.0.0.0 \
    MOVERANK_PORT=8000 \
    MOVERANK_DATA_DIR=/data
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client and not urllib: it never goes through a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['MOVERANK_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
CMD ["moverank", "serve"]

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/venv /opt/venv
COPY --from=package /package /opt/venv

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=package /package /opt/venv
