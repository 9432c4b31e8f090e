#!/usr/bin/env bash
# Runs the build step of the coordinator's image where there is no container engine: the files that
# .dockerignore lets in, an empty environment, and a coordinator that has to answer.
set -euo pipefail

cd "$(dirname "$0")/../.."
work=$(mktemp -d)
coordinator=
trap '[[ -z $coordinator ]] || kill "$coordinator" 2>/dev/null || true; rm -rf "$work"' EXIT

mkdir "$work/src"
cp -r asyncds services requirements pyproject.toml README.md LICENSE "$work/src"
mkdir "$work/src/deploy"
cp -r deploy/images "$work/src/deploy"
clean=(env -i HOME="$work" PATH="$PATH" ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"})
"${clean[@]}" "$work/src/deploy/images/install.sh" coordinator "$work/venv" >"$work/pip.log" 2>&1 || {
    tail -n 12 "$work/pip.log" >&2
    exit 1
}

cd "$work"
"${clean[@]}" "$work/venv/bin/python" - <<'P'
import importlib.metadata
import services.coordinator.main
heavy = {"torch", "vllm", "transformers", "deepspeed"} & {
    d.name.lower() for d in importlib.metadata.distributions()
}
assert not heavy, f"the coordinator's image has {heavy}"
P
printf 'name: r\nruns_dir: %s\nmodel: none\ntelemetry: {port: 29400}\n' "$work/runs" >config.yaml
"${clean[@]}" "$work/venv/bin/asyncds" coordinator config.yaml coordinator.port=29555 2>log &
coordinator=$!
for _ in {1..60}; do
    if python3 -I -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:29400/healthz", timeout=2)' 2>/dev/null; then
        echo "The coordinator's environment: $(du -sm "$work/venv" | cut -f1) MB, no torch; it answers."
        exit 0
    fi
    kill -0 "$coordinator" 2>/dev/null || break
    sleep 1
done
cat log >&2
exit 1
