#!/bin/sh
# Runs one role of a run in its pod: role.sh coordinator|learner|generator|engine-worker [key=value …]
#
# SIGTERM goes to the process, so that it leaves in good order; this script then ends with 143, for a
# Job to start the pod again elsewhere: 0 says that the run is over. With HOLD=1 a run that is over
# keeps the container instead of ending it, because Kubernetes would start it again.
set -u
rm -f /tmp/over /tmp/pid # of a container that was here before
role=$1
shift

hold() {
    touch /tmp/over
    echo "The run is over; this pod waits idle until it is scaled to zero, or removed."
    trap 'exit 0' TERM
    while :; do
        sleep 3600 &
        wait $!
    done
}

case $role in
coordinator)
    set -- asyncds coordinator "$CONFIG" coordinator.host=0.0.0.0 "$@"
    ;;
generator)
    if [ "${ENGINE_PODS:-1}" -gt 1 ]; then # vLLM finds the other pods through Ray
        ray start --head --port 6379 || exit 1
        export RAY_ADDRESS=auto
    fi
    # The metrics port follows those of all ranks; every pod has an address of its own, so that all
    # can have the same one.
    set -- asyncds generator --name "$POD_NAME" "$CONFIG" \
        "telemetry.port=$((METRICS_PORT - 1 - RANKS))" "$@"
    ;;
engine-worker)
    set -- ray start --address "$LWS_LEADER_ADDRESS:6379" --block
    ;;
learner)
    # Where the first pod is, and which one this is. Not by HOSTNAME: with hostNetwork it is the node's.
    if [ -n "${JOBSET:-}" ]; then
        node=$JOB_COMPLETION_INDEX
        first=$JOBSET-node-0-0.$JOBSET
    else
        node=${POD_NAME##*-}
        first=${POD_NAME%-*}-0.$SERVICE
    fi
    set -- torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" --node-rank "$node" \
        --master-addr "$first" --master-port "$MASTER_PORT" --max-restarts 0 \
        --no-python asyncds learner "$CONFIG" "weights.host=$POD_IP" \
        "telemetry.port=$((METRICS_PORT - 1 - node * PROCESSES))" "$@"
    ;;
esac

stopping=
"$@" &
child=$!
echo "$child" >/tmp/pid
trap 'stopping=1; kill -TERM "$child" 2>/dev/null' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal ended `wait`, not the process
    wait "$child"
    code=$?
done
if [ "$code" -eq 0 ] && [ -n "$stopping" ]; then
    code=143
elif [ "$code" -eq 0 ] && [ "${HOLD:-0}" = 1 ]; then
    hold
fi
exit "$code"
