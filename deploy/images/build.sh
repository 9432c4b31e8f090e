#!/usr/bin/env bash
# Builds an image with whatever engine is here, and pushes it: build.sh REGISTRY [gpu|cpu|coordinator]
#
#   REGISTRY     where to: registry.example.com/team; the image is REGISTRY/asyncds:<version>, with
#                -cpu or -coordinator behind the version for these targets
#   TAG          in the place of the version
#   ENGINE       docker, podman or buildah; default: the first of them that is here and answers
#   PUSH=0       build only
set -euo pipefail

registry=${1:-} target=${2:-gpu}
[[ -n $registry ]] || {
    echo "Say where the image goes: make image REGISTRY=registry.example.com/team" >&2
    exit 2
}
[[ $target =~ ^(gpu|cpu|coordinator)$ ]] || {
    echo "There is no image $target: say gpu, cpu or coordinator." >&2
    exit 2
}
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${TAG:-$version}
[[ $target == gpu || -n ${TAG:-} ]] || tag+=-$target
image=${registry%/}/asyncds:$tag

answers() { command -v "$1" >/dev/null && timeout 20 "$1" info >/dev/null 2>&1; }
engine=${ENGINE:-}
if [[ -z $engine ]]; then
    for candidate in docker podman buildah; do
        if answers "$candidate"; then engine=$candidate && break; fi
    done
elif ! answers "$engine"; then
    echo "$engine does not answer: is it installed, and is its service running?" >&2
    exit 1
fi
[[ -n $engine ]] || {
    echo "No container engine answers here: install docker, podman or buildah, or start its service." >&2
    exit 1
}

echo "Building $image with $engine."
"$engine" build -f deploy/images/Dockerfile --target "$target" -t "$image" .
if [[ ${PUSH:-1} == 0 ]]; then exit; fi
"$engine" push "$image" || {
    echo "The image is built and was not pushed: log in ($engine login ${registry%%/*}), then again." >&2
    exit 1
}
echo "Pushed. In the chart's values: image.repository=${image%:*} image.tag=$tag"
