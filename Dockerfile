# The suite in its locked environment.
#
#   docker build -t repro --build-arg COMMIT=$(git rev-parse HEAD) .
#   docker build -t repro-cpu --build-arg TORCH=cpu .       a third of the size, for machines without a GPU
#   docker run --rm -v "$PWD/work:/work" -v repro-data:/data repro run diffusion-couple
#   docker run --rm --gpus all -v "$PWD/work:/work" -v repro-data:/data repro run radd --scale gpu
#   docker run --rm -v "$PWD/work:/work" -v repro-data:/data --entrypoint snakemake repro \
#       --profile workflow/profiles/local smoke
#
# The locked torch is the CUDA build, which runs on a CPU too: what results/ was made with.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

# what fetches data, and the fonts and libraries that drawing wants
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make npm libgl1 libglib2.0-0 \
    && apt-get clean

WORKDIR /suite

COPY requirements.lock ./
COPY tools/packaging/cpu_lock.py tools/packaging/
ARG TORCH=cuda
RUN case "$TORCH" in \
    cuda) pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock ;; \
    cpu) python tools/packaging/cpu_lock.py requirements.lock > /tmp/cpu.lock \
        && pip install --no-cache-dir --no-deps --require-hashes -r /tmp/cpu.lock \
        && pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu \
            $(python tools/packaging/cpu_lock.py requirements.lock --torch) ;; \
    *) echo "TORCH is cuda or cpu" && exit 2 ;; \
    esac

COPY Snakefile Makefile pyproject.toml CITATION.cff LICENSE README.md ./
COPY workflow workflow
COPY repro repro
COPY methods methods
COPY comparisons comparisons
COPY results results

# the commit that records name; without it they say `unknown`
ARG COMMIT=
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > .commit; fi \
    && printf '#!/bin/sh\nexec python -m repro "$@"\n' > /usr/local/bin/repro \
    && chmod 755 /usr/local/bin/repro

ENV PYTHONPATH=/suite REPRO_WORK=/work REPRO_DATA=/data MPLCONFIGDIR=/tmp/matplotlib
VOLUME ["/work", "/data"]
ENTRYPOINT ["repro"]
CMD ["--help"]
