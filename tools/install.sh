#!/bin/sh
# Creates .venv at the repository root and installs the project into it, editable.
# On a machine without an NVIDIA GPU no part of CUDA is downloaded. DEVICE=cpu or DEVICE=cuda overrides the detection;
# PYTHON names another interpreter.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch_version=$(sed -n 's/^ *"torch==\([0-9.]*\)".*/\1/p' pyproject.toml)

fail() { echo "install: $1" >&2; exit 2; }

command -v "$python" >/dev/null 2>&1 || fail "'$python' was not found: install Python 3.11 or newer, or set PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "Python 3.11 or newer is needed and '$python' is $("$python" -V 2>&1 | cut -d' ' -f2): set PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null \
  || fail "'$python' has no venv module: install it first (on Debian or Ubuntu: apt-get install python3-venv)"
[ "$(uname -s)" = Linux ] || fail "fbgemm-gpu has wheels only for Linux: use Linux, or a Linux container"

device=${DEVICE:-}
if [ -z "$device" ]; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; else device=cpu; fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

case "$device" in
  cpu)
    # The local version '+cpu' exists only on PyTorch's wheel page (or where pip is configured to look), so pip cannot
    # install the CUDA build of the registry by mistake.
    pip install --quiet --no-deps --retries 1 --find-links https://download.pytorch.org/whl/cpu/torch/ \
      "torch==$torch_version+cpu" 2>.venv/torch.log \
      || { cat .venv/torch.log >&2; fail "torch $torch_version for CPU could not be installed: is PyTorch's wheel page reachable?"; }
    pip install --quiet ./tools/fbgemm_gpu_on_cpu -e ".[test]"
    ;;
  cuda) pip install --quiet -e ".[test]" ;;
  *) fail "DEVICE=$device is neither cpu nor cuda" ;;
esac

pip check >/dev/null || fail "the installed packages do not fit together: $(pip check 2>&1 | head -n 1)"
.venv/bin/python -c 'import torchrec_priors'
touch .venv/installed
echo "installed for $device in .venv ($(du -sm .venv | cut -f1) MB)"
