# The image for schedulers that run containers (docs/clusters.md):
#   docker build -t torchrec-priors:cpu .
#   docker build --build-arg DEVICE=cuda --build-arg EXTRAS=s3 -t registry.example.com/torchrec-priors:cuda .
# PyTorch's wheels contain CUDA's libraries; the host provides the driver.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu

# If there is a compiler, attention is compiled on first use: by g++ for a CPU, by Triton for a GPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN python -m venv "$VIRTUAL_ENV"

# The dependencies (gigabytes) are a separate layer: it changes only with pyproject.toml, which pins them.
WORKDIR /opt/torchrec-priors
COPY pyproject.toml ./
COPY tools/fbgemm_gpu_on_cpu tools/fbgemm_gpu_on_cpu
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && case "$DEVICE" in \
        cpu) pip install --no-deps --find-links https://download.pytorch.org/whl/cpu/torch/ \
                "$(grep '^torch==' requirements.txt)+cpu" \
            && pip install ./tools/fbgemm_gpu_on_cpu -r requirements.txt ;; \
        cuda) pip install -r requirements.txt ;; \
        *) echo "DEVICE=$DEVICE is neither cpu nor cuda" >&2; exit 2 ;; \
    esac

ARG EXTRAS=
COPY README.md LICENSE ./
COPY datasets datasets
COPY torchx_configs torchx_configs
COPY tools/torchrec_priors_cpu.py tools/
COPY torchrec_priors torchrec_priors
RUN pip install ".${EXTRAS:+[$EXTRAS]}" \
    && pip check \
    && python -c "import torchrec_priors" \
    && torchrec-priors prepare --help > /dev/null

# The user must be allowed to write to shared volumes. For files that belong to you: --build-arg UID=$(id -u).
ARG UID=1000
RUN useradd --non-unique --uid "$UID" --create-home priors \
    && install --directory --owner=priors /workspace
USER $UID
WORKDIR /workspace
COPY torchx_configs torchx_configs

# There is no ENTRYPOINT: Docker and AWS Batch would put it before TorchX's command.
CMD ["torchrec-priors", "--help"]
