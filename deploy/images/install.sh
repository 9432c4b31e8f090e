#!/usr/bin/env bash
# The build step of an image: asyncds and what one kind of pod needs, pinned, in an environment.
#
#   deploy/images/install.sh coordinator|gpu|cpu DIRECTORY
#
# coordinator: no torch, no vLLM. gpu, cpu: every role. PYTHON chooses the interpreter (3.12 for the
# locks of coordinator and gpu). TORCH_INDEX is where the CPU build of torch is looked for if pip's own
# index has none.
set -euo pipefail

kind=$1 venv=$2
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install)

case $kind in
coordinator) "${pip[@]}" -c requirements/gpu.lock '.[otel]' ;;
gpu) "${pip[@]}" -c requirements/gpu.lock '.[gpu,ray,math,otel,sandbox]' ;;
cpu)
    torch=$(grep -o '^torch==[^ ;]*' requirements/cpu.lock)
    "${pip[@]}" --no-deps "$torch" ||
        "${pip[@]}" --no-deps --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "$torch"
    "${pip[@]}" --no-deps -r requirements/cpu.lock
    "${pip[@]}" --no-deps .
    ;;
*)
    echo "There is no image $kind: say coordinator, gpu or cpu." >&2
    exit 2
    ;;
esac
