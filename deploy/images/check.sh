#!/usr/bin/env bash
# Runs the build step of an image where there is no container engine: the files that .dockerignore
# lets in, an empty environment, another user, and then what the image is for.
#
#   deploy/images/check.sh [coordinator|cpu]
#
# coordinator: it has to answer. cpu: a run of two steps on a small model has to end well (3 GB, some
# minutes).
set -euo pipefail

image=${1:-coordinator}
[[ $image =~ ^(coordinator|cpu)$ ]] || {
    echo "There is no check of an image $image: say coordinator or cpu." >&2
    exit 2
}
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
started=
trap '[[ -z $started ]] || kill "$started" 2>/dev/null || true; rm -rf "$work"' EXIT

mkdir -p "$work"/{src/deploy,home}
cp -r asyncds services requirements pyproject.toml README.md LICENSE "$work/src"
cp -r deploy/images "$work/src/deploy"
clean=(env -i HOME="$work/home" PATH="$PATH")
for setting in "${!PIP_@}" TORCH_INDEX PYTHON; do # how pip reaches an index from here
    [[ -z ${!setting:-} ]] || clean+=("$setting=${!setting}")
done
"${clean[@]}" "$work/src/deploy/images/install.sh" "$image" "$work/venv" >"$work/pip.log" 2>&1 || {
    tail -n 12 "$work/pip.log" >&2
    exit 1
}
size=$(du -sm "$work/venv" | cut -f1)

# As the image does: its programs first, and a user that owns none of them, if it may use the
# interpreter that the environment was made with.
clean=(env -i HOME="$work/home" PATH="$work/venv/bin:/usr/local/bin:/usr/bin:/bin")
cd "$work/home"
if ((EUID == 0)); then
    chmod 755 "$work"
    other=(setpriv --reuid 10001 --regid 10001 --clear-groups "${clean[@]}")
    if "${other[@]}" python -c '' 2>/dev/null; then
        chown 10001:10001 "$work/home"
        clean=("${other[@]}")
    else
        echo "As root: $(readlink -f "$work/venv/bin/python") is not for others. PYTHON names another."
    fi
fi

check_coordinator() {
    "${clean[@]}" python - <<'P'
import importlib.metadata
import services.coordinator.main
heavy = {"torch", "vllm", "transformers", "deepspeed"} & {
    d.name.lower() for d in importlib.metadata.distributions()
}
assert not heavy, f"the coordinator's image has {heavy}"
P
    printf 'name: r\nruns_dir: runs\nmodel: none\ntelemetry: {port: 29400}\n' >"$work/config.yaml"
    "${clean[@]}" asyncds coordinator "$work/config.yaml" coordinator.port=29555 2>"$work/log" &
    started=$!
    for _ in {1..60}; do
        if python3 -I -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:29400/healthz", timeout=2)' 2>/dev/null; then
            echo "The coordinator's environment: $size MB, no torch; it answers."
            return
        fi
        kill -0 "$started" 2>/dev/null || break
        sleep 1
    done
    cat "$work/log" >&2
    return 1
}

check_cpu() {
    cat >"$work/config.yaml" <<'Y'
name: r
model: model
dtype: float32
steps: 2
task: {kind: countdown, n_eval: 16}
sampling: {max_tokens: 8}
rollout: {groups_per_step: 4, group_size: 4}
generator: {max_model_len: 32, cpu_threads: 1, kv_cache_gb: 0.25}
learner: {ranks: 1}
eval: {every: 0, n_problems: 4, n_samples: 4, interim_samples: 4}
Y
    "${clean[@]}" asyncds tiny-model model
    "${clean[@]}" asyncds run "$work/config.yaml" >"$work/log" 2>&1 || {
        tail -n 30 "$work/log" >&2
        return 1
    }
    echo "The environment for every role on CPUs: $size MB; a run of two steps ended well."
}

"check_$image"
