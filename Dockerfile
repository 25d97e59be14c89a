# Two images, the same but for the builds of torch and vLLM:
#   docker build --target cpu -t selfstudy-engine:cpu .
#   docker build --target gpu -t selfstudy-engine:gpu .
#   mkdir -p runs
#   docker run --rm --no-healthcheck --shm-size 1g --user "$(id -u):$(id -g)" -v "$PWD/runs:/work/runs" \
#     selfstudy-engine:cpu loop --batch 256
# A server and a loop side by side: deploy/compose.yaml; on Kubernetes: deploy/kubernetes.
# Nothing listens outside the container until the user says so, twice (one adapter, and no swaps):
#   docker run --rm --gpus all --shm-size 8g -p 127.0.0.1:8000:8000 selfstudy-engine:gpu serve --public
# It runs as uid 1000, or as whom --user names: a folder given with -v must be writable for that one.

# A mirror's copy, where the hub can't be reached: --build-arg PYTHON_IMAGE=mirror.example/python:3.12
ARG PYTHON_IMAGE=python:3.12.14-slim-bookworm@sha256:0f5b26b9518d002b6173fd61daad821fa340635ebfec5bba471013f9ca114579
FROM $PYTHON_IMAGE AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# g++: torch's inductor (CPU) and Triton (GPU) compile kernels when vLLM starts. libnuma1: vLLM's CPU
# build links it. libxrender1, libxext6, libexpat1: RDKit's drawing links them. tini: reaps the vLLM
# processes that outlive their parent. Versions only as exact as Debian's security updates allow.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++=4:12.2.* libexpat1=2.5.* libnuma1=2.0.* libxext6=2:1.3.* libxrender1=1:0.9.* tini=0.19.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home selfstudy \
    && install --directory --mode 1777 /work /work/runs /home/selfstudy /home/selfstudy/.cache
WORKDIR /opt/selfstudy-engine
# HOME and USER: a uid of --user has neither, and torch asks for a name.
ENV PATH=/opt/selfstudy-engine/.venv/bin:$PATH HOME=/home/selfstudy USER=selfstudy PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# The runs, and what is downloaded or compiled once (models, kernels).
VOLUME ["/work/runs", "/home/selfstudy/.cache"]
EXPOSE 8000
# Says whether `serve` answers, over HTTP or (--ssl-certfile, made for another address) HTTPS; no proxy
# is asked. A container that runs another command needs --no-healthcheck. Loading a model takes minutes.
HEALTHCHECK --start-period=10m --interval=30s --timeout=10s --retries=3 \
    CMD ["bash", "-c", "for way in http https; do python -c 'import ssl, sys, urllib.request as r; r.build_opener(r.ProxyHandler({}), r.HTTPSHandler(context=ssl._create_unverified_context())).open(sys.argv[1], timeout=4)' $way://127.0.0.1:8000/health && exit; done; exit 1"]
ENTRYPOINT ["tini", "--", "selfstudy-engine"]
CMD ["--help"]
# What the gigabytes of packages depend on, and nothing else: editing the project keeps their layer.
COPY install.sh pyproject.toml ./
COPY requirements requirements

FROM base AS gpu
RUN ./install.sh gpu --deps-only
COPY . .
RUN ./install.sh gpu && python -m compileall -q cli data engine src train
WORKDIR /work
USER 1000

# Last, so that it is what a build without --target makes.
FROM base AS cpu
RUN ./install.sh cpu --deps-only
COPY . .
RUN ./install.sh cpu && python -m compileall -q cli data engine src train
WORKDIR /work
USER 1000
