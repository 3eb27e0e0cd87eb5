#!/bin/bash
# Makes the virtual environments of benchmarks/throughput.py: `keras` for keras_vit and keras-hub, `torch` for the other peers.
#
#     benchmarks/setup.sh [FOLDER]            in FOLDER, or in benchmarks/.venvs
#     SYSTEM=1 benchmarks/setup.sh [FOLDER]   with the torch, JAX and TensorFlow that this machine has, for GPUs
#
# pip's own settings hold, PIP_EXTRA_INDEX_URL for a build of torch without CUDA, say. PYTHON names the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/benchmarks/.venvs}
mkdir -p "$folder"
system=${SYSTEM:+--system-site-packages}

make() { # name, packages...
    "${PYTHON:-python3}" -m venv $system "$folder/$1"
    "$folder/$1/bin/pip" install --quiet "${@:2}"
}

torch=(torch==2.13.0) tensorflow=(tensorflow-cpu==2.21.0) jax=(jax==0.10.2)
[ -z "$system" ] || torch=() tensorflow=() jax=()
make keras "${tensorflow[@]}" "${jax[@]}" "${torch[@]}" keras==3.15.1 openvino==2026.4.1 -e "$root[plot]" kagglehub pyyaml sentencepiece tokenizers regex rich
# Without tensorflow-text, which its image models do not need and which asks for another TensorFlow.
"$folder/keras/bin/pip" install --quiet --no-deps keras-hub==0.32.0
make torch "${torch[@]}" transformers==5.24.0 onnx onnxscript onnxruntime==1.32.0 openvino==2026.4.1 safetensors pyyaml huggingface_hub \
    pillow
# Without its dependencies: the newest torchvision needs not fit the newest torch, and models do not use it.
"$folder/torch/bin/pip" install --quiet --no-deps timm==1.0.31

# MKL leaves its AVX-512 kernels to Intel's processors unless this function, which it asks, says otherwise: torch is 2.2 times faster.
if grep -q AuthenticAMD /proc/cpuinfo; then
    echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | gcc -shared -fPIC -x c - -o "$folder/libmkl_fast.so"
fi
echo "Ready: python benchmarks/throughput.py --venvs $folder"
