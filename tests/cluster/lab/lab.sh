#!/usr/bin/env bash
# A real Kubernetes on one machine, for tests: etcd, API server, scheduler, controllers, and nodes
# with kubelet, containerd and kube-proxy, each in a network namespace of its own.
#
#   lab.sh fetch            download what it is built from (Debian's packages, as apt has them)
#   lab.sh build            build Kubernetes 1.20 from Debian's source package (a quarter of an hour)
#   lab.sh built            is that done?
#   lab.sh up PLAIN GPU     start it, with nodes without and with 8 pretended GPUs and their taint
#   lab.sh exec COMMAND…    run something where its API is reached; KUBECONFIG is set
#   lab.sh cut NODE         take a node's network away
#   lab.sh mend NODE        give it back
#   lab.sh down             end everything and remove it
#
# Needs root, Debian and cgroups of version 1. Nothing is installed: all is in $LAB, by default
# ~/.cache/k8slab, and what runs is in $LAB/run. Pods get the machine's own programs: the image
# registry.local/host, with the tags 1 and 2, is an empty root for mounts of /usr and whatever else;
# HOST_PATH is its PATH, HOST_PYTHONPATH its PYTHONPATH.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
LAB=${LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/k8slab}
root=$LAB/root bin=$LAB/bin run=$LAB/run
lib=$root/usr/lib/x86_64-linux-gnu
source=$LAB/src/kubernetes-1.20.2
logs_of_pods=pkg/kubelet/kuberuntime/kuberuntime_manager.go
api=10.77.0.10
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
packages=(
    golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev rsync libpopt0 libxxhash0
    etcd-server containerd runc containernetworking-plugins kubernetes-client libseccomp2
    iptables libip4tc2 libip6tc2 libxtables12 libnftnl11 libmnl0 libnfnetlink0
    libnetfilter-conntrack3 conntrack
)

fail() {
    echo "$1" >&2
    exit 1
}

# until_true SECONDS WHAT COMMAND…
until_true() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" &>/dev/null; do
        ((SECONDS < end)) || fail "$what did not come within $seconds s; logs are in $run"
        sleep 0.5
    done
}

# --- building -----------------------------------------------------------------------------------

fetch() {
    local state=(
        -o "Dir::State=$LAB/apt/state" -o Dir::State::status=/var/lib/dpkg/status
        -o "Dir::Cache=$LAB/apt/cache" -o Dir::Etc::sourcelist=/dev/null
        -o "Dir::Etc::sourceparts=$LAB/apt/sources.d"
    ) deb name
    mkdir -p "$LAB"/{debs,src,root} "$LAB"/apt/{sources.d,state/lists/partial,cache/archives/partial}
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources \
        >"$LAB/apt/sources.d/src.sources"
    apt-get -qq "${state[@]}" update
    (cd "$LAB/src" && apt-get -qq "${state[@]}" source --download-only kubernetes)
    (cd "$LAB/debs" && { apt-get -qq download "${packages[@]}" 2>/dev/null ||
        { apt-get -qq update && apt-get -qq download "${packages[@]}"; }; })
    for deb in "$LAB"/debs/*.deb; do dpkg -x "$deb" "$root"; done
    for name in {ip,ip6}tables{,-save,-restore}; do
        ln -sf xtables-nft-multi "$root/usr/sbin/$name"
    done
    tar -xzf "$LAB"/src/kubernetes_*.orig.tar.gz -C "$LAB/src"
    # The copy in the source does not compile with this Go; Debian's package does.
    rm -f "$source"/vendor/github.com/modern-go/reflect2/*.{go,s}
    cp "$root"/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} \
        "$source/vendor/github.com/modern-go/reflect2/"
    # A kubelet removes logs of pods that it does not know: each gets a directory of its own.
    sed -i 's|^\tpodLogsRootDirectory = "/var/log/pods"$||' "$source/$logs_of_pods"
    echo 'var podLogsRootDirectory = os.Getenv("POD_LOGS")' >>"$source/$logs_of_pods"
}

build() {
    [[ -d $source ]] || fetch
    (
        cd "$source"
        export PATH=$root/usr/lib/go-1.19/bin:$root/usr/bin:$PATH LD_LIBRARY_PATH=$lib
        export GOROOT=$root/usr/lib/go-1.19 GOCACHE=$LAB/gocache GOPATH=$LAB/gopath GOPROXY=off
        export KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_TREE_STATE=archive
        export KUBE_GIT_COMMIT=faecb196815e248d3ecfb03c680a4507229c2a56
        make generated_files
        make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w"
    ) >"$LAB/build.log" 2>&1 || fail "the build failed: see $LAB/build.log"
    gcc -static -Os -DVERSION=3.2 -o "$LAB/pause" "$source/build/pause/linux/pause.c"
    mkdir -p "$bin"
    cp "${programs[@]/#/$source/_output/local/bin/linux/amd64/}" "$bin/"
}

built() {
    local name
    for name in "${programs[@]}"; do
        [[ -x $bin/$name ]] || return 1
    done
    [[ -x $LAB/pause && -x $root/usr/bin/containerd ]]
}

# --- networks -----------------------------------------------------------------------------------

# A namespace on the bridge in `lab-switch`, called lab-NAME, with an address.
host() {
    local name=$1 address=$2
    ip netns add "lab-$name"
    ip link add "lv-$name" type veth peer name "lp-$name"
    ip link set "lv-$name" netns "lab-$name"
    ip link set "lp-$name" netns lab-switch
    ip -n lab-switch link set "lp-$name" master bridge up
    ip -n "lab-$name" link set lo up
    ip -n "lab-$name" link set "lv-$name" name eth0
    ip -n "lab-$name" addr add "$address/24" dev eth0
    ip -n "lab-$name" link set eth0 up
}

inside() { # NAME COMMAND…: it becomes COMMAND, so that its id is the one to kill
    local name=$1
    shift
    exec nsenter --net="/var/run/netns/lab-$name" env PATH="$root/usr/bin:$root/usr/sbin:$PATH" \
        LD_LIBRARY_PATH="$lib" XTABLES_LIBDIR="$lib/xtables" "$@"
}

# start NAMESPACE LIST LOG COMMAND…: in the background; its id is kept in $run/LIST.
start() {
    local name=$1 list=$2 log=$3
    shift 3
    inside "$name" "$@" >"$run/$log.log" 2>&1 </dev/null &
    echo $! >>"$run/$list"
}

k() {
    (inside cp kubectl --kubeconfig "$run/kubeconfig" "$@")
}

cut() {
    ip -n lab-switch link set "lp-$1" down
}

mend() {
    ip -n lab-switch link set "lp-$1" up
}

# --- the cluster --------------------------------------------------------------------------------

up() {
    local plain=${1:-2} gpu=${2:-1} nodes i j
    nodes=$((plain + gpu))
    built || fail "the lab is not built: lab.sh build"
    [[ $EUID == 0 ]] || fail "the lab needs root"
    [[ -d /sys/fs/cgroup/memory ]] || fail "the lab needs cgroups of version 1"
    [[ ! -e $run ]] || fail "the lab is up already: lab.sh down"
    mkdir -p "$run"
    ip netns list | awk '/^cni-/ {print $1}' | sort >"$run/namespaces-before"
    ip netns add lab-switch
    ip -n lab-switch link add bridge type bridge
    ip -n lab-switch link set bridge up
    host cp "$api"
    for ((i = 1; i <= nodes; i++)); do
        host "node$i" "10.77.0.$((10 + i))"
        nsenter --net="/var/run/netns/lab-node$i" sysctl -qw net.ipv4.ip_forward=1
        ip -n lab-cp route add "10.244.$i.0/24" via "10.77.0.$((10 + i))"
    done
    for ((i = 1; i <= nodes; i++)); do
        for ((j = 1; j <= nodes; j++)); do
            ((i == j)) || ip -n "lab-node$i" route add "10.244.$j.0/24" via "10.77.0.$((10 + j))"
        done
    done
    control_plane
    python3 "$here/image.py" registry.local/pause:3.2 "$run/pause.tar" "$LAB/pause"
    for i in 1 2; do python3 "$here/image.py" "registry.local/host:$i" "$run/host$i.tar"; done
    for ((i = 1; i <= nodes; i++)); do node "$i"; done
    until_true 120 "every node" all_ready "$nodes"
    for ((i = plain + 1; i <= nodes; i++)); do
        # Older programs for `kubectl patch` can't change a status.
        (inside cp curl -fsSk -X PATCH -H "@$run/authorization" -o "$run/patched" \
            -H 'Content-Type: application/json-patch+json' \
            -d '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "8"}]' \
            "https://$api:6443/api/v1/nodes/node$i/status")
        k taint node "node$i" nvidia.com/gpu=present:NoSchedule >/dev/null
    done
}

all_ready() {
    [[ $(k get nodes --no-headers | grep -c ' Ready ') == "$1" ]]
}

control_plane() {
    local token
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    openssl genrsa -out "$run/accounts.key" 2048 2>/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/O=system:masters/CN=api" \
        -keyout "$run/kubelets.key" -out "$run/kubelets.crt" 2>/dev/null
    (
        umask 077
        echo "$token,admin,admin,\"system:masters\"" >"$run/tokens.csv"
        echo "Authorization: Bearer $token" >"$run/authorization"
        cat >"$run/kubeconfig" <<END
{"apiVersion": "v1", "kind": "Config", "current-context": "lab",
 "clusters": [{"name": "lab", "cluster": {
   "server": "https://$api:6443", "insecure-skip-tls-verify": true}}],
 "users": [{"name": "admin", "user": {"token": "$token"}}],
 "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}]}
END
    )
    start cp processes etcd "$root/usr/bin/etcd" --data-dir "$run/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380
    # Pods leave a node that is gone after 20 s instead of five minutes.
    start cp processes api "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --bind-address="$api" --advertise-address="$api" --secure-port=6443 --insecure-port=0 \
        --cert-dir="$run/certs" --service-cluster-ip-range=10.96.0.0/24 \
        --service-account-key-file="$run/accounts.key" \
        --service-account-signing-key-file="$run/accounts.key" \
        --service-account-issuer=https://kubernetes.default.svc \
        --authorization-mode=Node,RBAC --token-auth-file="$run/tokens.csv" \
        --kubelet-client-certificate="$run/kubelets.crt" \
        --kubelet-client-key="$run/kubelets.key" \
        --kubelet-preferred-address-types=InternalIP \
        --default-not-ready-toleration-seconds=20 --default-unreachable-toleration-seconds=20
    until_true 90 "the API server" k get --raw /readyz
    start cp processes controllers "$bin/kube-controller-manager" \
        --kubeconfig="$run/kubeconfig" --bind-address=127.0.0.1 --port=0 --leader-elect=false \
        --cert-dir="$run/certs-controllers" --root-ca-file="$run/certs/apiserver.crt" \
        --service-account-private-key-file="$run/accounts.key" --node-monitor-grace-period=16s
    start cp processes scheduler "$bin/kube-scheduler" --kubeconfig="$run/kubeconfig" \
        --bind-address=127.0.0.1 --port=0 --leader-elect=false --cert-dir="$run/certs-scheduler"
    start cp processes dns python3 "$here/dns.py" "$api" "$run/kubeconfig"
}

# Node number I.
node() {
    local i=$1 name=node$1 address=10.77.0.$((10 + $1)) folder=$run/node$1 socket controller
    socket=/run/k8slab-$name.sock
    mkdir -p "$folder/cni"
    cat >"$folder/containerd.toml" <<END
version = 2
root = "$folder/containerd"
state = "/run/k8slab-$name"
[grpc]
  address = "$socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$folder/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true # root of a virtual machine may not be allowed to lower it
  sandbox_image = "registry.local/pause:3.2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$root/usr/lib/cni"
    conf_dir = "$folder/cni"
END
    cat >"$folder/cni/10-lab.conflist" <<END
{"cniVersion": "0.4.0", "name": "lab", "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {
  "type": "host-local", "dataDir": "$folder/addresses",
  "ranges": [[{"subnet": "10.244.$i.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
    cat >"$folder/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
healthzBindAddress: $address
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $run/kubelets.crt}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /k8slab-$name
failSwapOn: false
clusterDNS: [$api]
clusterDomain: cluster.local
nodeStatusUpdateFrequency: 4s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
END
    for controller in /sys/fs/cgroup/*/; do
        mkdir -p "${controller}k8slab-$name" 2>/dev/null || true
    done
    # A node's pods count as one process otherwise, beside whatever else the machine does.
    echo 8192 >"/sys/fs/cgroup/cpu/k8slab-$name/cpu.shares"
    for controller in cpuset.cpus cpuset.mems; do # new ones begin empty
        cat "/sys/fs/cgroup/cpuset/$controller" >"/sys/fs/cgroup/cpuset/k8slab-$name/$controller"
    done
    start "$name" containers "$name/containerd" containerd --config "$folder/containerd.toml"
    until_true 60 "containerd of $name" containers "$name" version
    containers "$name" -n k8s.io images import "$run/pause.tar" >/dev/null
    containers "$name" -n k8s.io images import "$run/host1.tar" >/dev/null
    containers "$name" -n k8s.io images import "$run/host2.tar" >/dev/null
    start "$name" processes "$name/kubelet" env POD_LOGS="$folder/logs" "$bin/kubelet" --config="$folder/kubelet.yaml" \
        --kubeconfig="$run/kubeconfig" --root-dir="$folder/kubelet" --cert-dir="$folder/certs" \
        --container-runtime=remote --container-runtime-endpoint="unix://$socket" \
        --node-ip="$address" --hostname-override="$name" --volume-plugin-dir="$folder/plugins"
    start "$name" processes "$name/proxy" "$bin/kube-proxy" --kubeconfig="$run/kubeconfig" \
        --hostname-override="$name" --proxy-mode=iptables --cluster-cidr=10.244.0.0/16 \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
        --conntrack-tcp-timeout-close-wait=0 --healthz-bind-address=127.0.0.1:10256
}

containers() { # NODE ARGUMENT…: of its containerd
    local name=$1
    shift
    env LD_LIBRARY_PATH="$lib" "$root/usr/bin/ctr" --address "/run/k8slab-$name.sock" "$@"
}

# Ends what $run/LIST has, and waits until it is gone.
finish() {
    local id
    [[ -f $run/$1 ]] || return 0
    while read -r id; do
        kill "$id" 2>/dev/null || continue
        for _ in {1..50}; do
            kill -0 "$id" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$id" 2>/dev/null || true
    done <"$run/$1"
}

down() {
    local socket name task space
    set +e
    finish processes
    for socket in /run/k8slab-*.sock; do
        name=${socket#/run/k8slab-} name=${name%.sock}
        for task in $(containers "$name" -n k8s.io tasks ls -q 2>/dev/null); do
            containers "$name" -n k8s.io tasks delete --force "$task" &>/dev/null
        done
    done
    finish containers
    awk -v run="$run/" 'index($2, run) == 1 || $2 ~ "^/run/k8slab-" {print $2}' /proc/mounts |
        sort -r | xargs -r umount -l
    for name in /sys/fs/cgroup/*/k8slab-*; do
        find "$name" -depth -type d -exec rmdir {} \; 2>/dev/null
    done
    ip netns list | awk '/^cni-/ {print $1}' | sort | comm -13 "$run/namespaces-before" - |
        while read -r space; do ip netns del "$space"; done 2>/dev/null
    for space in $(ip netns list | awk '/^lab-(switch|cp|node[0-9]+)/ {print $1}'); do
        ip netns del "$space"
    done
    rm -rf "$run" /run/k8slab-*
}

case ${1:-} in
fetch | build | built | up | cut | mend | down) "$@" ;;
exec)
    shift
    [[ -f $run/kubeconfig ]] || fail "the lab is not up: lab.sh up 2 1"
    export KUBECONFIG=$run/kubeconfig
    # Not the libraries of the lab: what is run is the machine's own.
    PATH=$PATH:$root/usr/bin exec nsenter --net=/var/run/netns/lab-cp "${@}"
    ;;
*)
    sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
    exit 2
    ;;
esac
