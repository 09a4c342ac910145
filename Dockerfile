# grkd in a container. Two variants:
#   docker build --build-arg VARIANT=cpu --build-arg TORCH_INDEX=ADDRESS -t grkd:cpu .
#   docker build --build-arg VARIANT=gpu -t grkd:gpu .      # PyTorch with CUDA; run with --gpus all
#   docker run --rm -v "$PWD:/runs" --user "$(id -u)" grkd:cpu run mine.yaml    # runs are then yours
# PYTHON_IMAGE: another image with Python 3.11 to 3.13 and pip, such as your organisation's own.
ARG VARIANT=cpu
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HOME=/runs/.cache/huggingface MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /opt/grkd
COPY pyproject.toml README.md LICENSE constraints-cpu.txt ./
COPY recipes recipes
COPY src src

# TORCH_INDEX: the package index with PyTorch's builds for CPUs. Without it Linux gets the build with CUDA, which works
# on a CPU and is some gigabytes larger.
FROM base AS cpu
ARG TORCH_INDEX=""
# "." is this project, whose own version is the pin.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0 \
    && pip install -c constraints-cpu.txt '.[lora,gguf,data,search,image,rank]'

# On Linux the wheels of the default index bring CUDA and Triton along; Triton compiles what starts a kernel, in C.
FROM base AS gpu
# Debian keeps no older versions of a package.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# hadolint ignore=DL3013
RUN pip install 'torch>=2.8,<3' \
    && pip install '.[lora,gguf,data,search,image,rank]'

# hadolint ignore=DL3006
FROM ${VARIANT} AS final
RUN useradd --create-home --uid 1000 grkd && mkdir -p /runs && chown grkd /runs
# By number, so that a host knows it is not root.
USER 1000
WORKDIR /runs
ENTRYPOINT ["grkd"]
CMD ["--help"]
