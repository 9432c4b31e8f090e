{{- /* At most 34 characters, so that the longest name made of it, a learner pod's host name, has at most
63. What is cut carries a hash of the whole, so that two long names stay two. */ -}}
{{- define "asyncds.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if gt (len $full) 34 -}}
{{- $full = printf "%s-%s" ($full | trunc 26 | trimSuffix "-") ($full | sha256sum | trunc 7) -}}
{{- end -}}
{{- $full -}}
{{- end }}

{{- /* Labels that select: (dict "root" $ "component" … ["pool" …]) */ -}}
{{- define "asyncds.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .pool }}
asyncds/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "asyncds.labels" -}}
{{ include "asyncds.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Labels of what makes the pods: (dict "root" $ "component" … "own" …). */ -}}
{{- define "asyncds.workloadLabels" -}}
{{ include "asyncds.labels" . }}
{{- with .own.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Labels of pods: those that select, and people's. Nothing here changes with the chart's version, or
every upgrade would replace every pod. */ -}}
{{- define "asyncds.podLabels" -}}
{{ include "asyncds.selector" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .own.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The image of a role, which may differ from that of all: (dict "root" $ "own" …). */ -}}
{{- define "asyncds.image" -}}
{{- $own := default dict .own.image -}}
{{- $image := deepCopy .root.Values.image -}}
{{- if or $own.repository $own.tag -}}{{- $_ := set $image "digest" "" -}}{{- end -}}
{{- $image = mergeOverwrite $image $own -}}
{{- if not $image.repository -}}
{{- fail "image.repository is empty: build and push an image (`make image REGISTRY=registry.example.com/team`), and set image.repository to its name without the tag (registry.example.com/team/asyncds)" -}}
{{- end -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}{{- else -}}{{ $image.repository }}:{{ default .root.Chart.AppVersion $image.tag }}{{- end -}}
{{- end }}

{{- define "asyncds.pullPolicy" -}}
{{- (mergeOverwrite (deepCopy .root.Values.image) (default dict .own.image)).pullPolicy -}}
{{- end }}

{{- define "asyncds.processes" -}}
{{- .Values.learner.processesPerNode | default .Values.learner.gpusPerNode | default 1 -}}
{{- end }}

{{- define "asyncds.runName" -}}
{{- default .Release.Name .Values.config.name -}}
{{- end }}

{{- /* What the values must not say, or must say together. */ -}}
{{- define "asyncds.check" -}}
{{- $config := .Values.config -}}
{{- if and .Values.telemetry.page.enabled (eq (toString (dig "telemetry" "page" "" $config)) "false") -}}
{{- fail "telemetry.page.enabled is true although config.telemetry.page is false: set one of them" -}}
{{- end -}}
{{- range $section, $keys := dict "coordinator" (list "host" "port" "curve" "allow_unencrypted" "stay") "telemetry" (list "host" "port") "weights" (list "host") "learner" (list "ranks") -}}
{{- range $keys -}}
{{- if hasKey (default dict (get $config $section)) . -}}
{{- fail (printf "config.%s.%s is set by the chart: remove it" $section .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey $config "runs_dir" -}}{{- fail "config.runs_dir is set by the chart: remove it" -}}{{- end -}}
{{- $curve := .Values.security.curve -}}
{{- if and (not $curve.existingSecret) (not .Values.security.allowUnencrypted) -}}
{{- fail "the control plane would not be encrypted: set security.curve.existingSecret and clientsSecret (`asyncds keys` makes the keys), or security.allowUnencrypted to true if everyone who can reach the coordinator may control the run" -}}
{{- end -}}
{{- if and $curve.existingSecret .Values.security.allowUnencrypted -}}
{{- fail "security.allowUnencrypted is true although security.curve.existingSecret is set: set one of them" -}}
{{- end -}}
{{- if ne (empty $curve.existingSecret) (empty $curve.clientsSecret) -}}
{{- fail "security.curve needs existingSecret (the keys) and clientsSecret (who is let in): set both" -}}
{{- end -}}
{{- if and (gt (int .Values.learner.nodes) 1) (not .Values.learner.storage.existingClaim) (eq .Values.learner.storage.accessMode "ReadWriteOnce") -}}
{{- fail "learner.nodes is above 1, and a volume with accessMode ReadWriteOnce can be used by one: set learner.storage.accessMode to ReadWriteMany" -}}
{{- end -}}
{{- $ports := add .Values.telemetry.port (include "asyncds.processes" .) -}}
{{- if and (ge (int .Values.coordinator.port) (int .Values.telemetry.port)) (lt (int .Values.coordinator.port) (int $ports)) -}}
{{- fail (printf "coordinator.port %v is one of the metrics ports from telemetry.port %v on: choose another" .Values.coordinator.port .Values.telemetry.port) -}}
{{- end -}}
{{- $ranks := mul .Values.learner.nodes (include "asyncds.processes" .) -}}
{{- if le (int .Values.telemetry.port) (int (add $ranks 1024)) -}}
{{- fail (printf "telemetry.port %v leaves too little room below it for %d ranks: choose one above %d" .Values.telemetry.port $ranks (add $ranks 1024)) -}}
{{- end -}}
{{- include "asyncds.checkModel" . -}}
{{- include "asyncds.checkSizes" . -}}
{{- include "asyncds.checkPods" (dict "where" "coordinator" "own" .Values.coordinator) -}}
{{- include "asyncds.checkPods" (dict "where" "learner" "own" .Values.learner) -}}
{{- if and .Values.learner.gpusPerNode (gt (int .Values.learner.processesPerNode) (int .Values.learner.gpusPerNode)) -}}
{{- fail (printf "learner.processesPerNode %v is above learner.gpusPerNode %v, and each process needs a GPU: lower it, or leave it at 0" .Values.learner.processesPerNode .Values.learner.gpusPerNode) -}}
{{- end -}}
{{- if and (eq (dig "scoring" "backend" "processes" $config) "ray") (not .Values.ray.enabled) (has (dig "scoring" "ray_address" "" $config) (list "" "auto")) -}}
{{- fail "config.scoring.backend is ray, and no Ray cluster is there: set ray.enabled to true (and remove config.scoring.backend), or config.scoring.ray_address to a cluster of yours" -}}
{{- end -}}
{{- if and .Values.ray.enabled (hasKey $config "scoring") -}}
{{- range list "backend" "ray_address" -}}
{{- if hasKey $config.scoring . -}}{{- fail (printf "config.scoring.%s is set by the chart when ray.enabled is true: remove it" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: set serviceAccount.name to an account that exists" -}}
{{- end -}}
{{- end }}

{{- /* What the cluster must serve, as far as it says what it serves: `helm template` knows no kind at all,
and then nothing is refused. */ -}}
{{- define "asyncds.checkCluster" -}}
{{- $needed := list -}}
{{- if eq .Values.learner.kind "JobSet" -}}
{{- $needed = append $needed (list "learner.kind is JobSet" "jobset.x-k8s.io/v1alpha2/JobSet" "JobSet 0.8" "set learner.kind to StatefulSet") -}}
{{- end -}}
{{- range $name, $values := .Values.generators.pools -}}
{{- $own := include "asyncds.pool" (dict "root" $ "name" $name "pool" $values) | fromYaml -}}
{{- if and $own.enabled (eq $own.kind "LeaderWorkerSet") -}}
{{- $needed = append $needed (list (printf "generators.pools.%s.kind is LeaderWorkerSet" $name) "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet" "LeaderWorkerSet 0.6" "set kind to Deployment") -}}
{{- end -}}
{{- if and $own.enabled $own.autoscaling.enabled (eq $own.autoscaling.kind "keda") -}}
{{- $needed = append $needed (list (printf "generators.pools.%s.autoscaling.kind is keda" $name) "keda.sh/v1alpha1/ScaledObject" "KEDA 2.14" "set autoscaling.kind to hpa, or autoscaling.enabled to false") -}}
{{- end -}}
{{- end -}}
{{- if .Values.ray.enabled -}}
{{- $needed = append $needed (list "ray.enabled is true" "ray.io/v1/RayCluster" "KubeRay 1.6" "set ray.enabled to false") -}}
{{- end -}}
{{- if .Values.monitoring.podMonitor.enabled -}}
{{- $needed = append $needed (list "monitoring.podMonitor.enabled is true" "monitoring.coreos.com/v1/PodMonitor" "the Prometheus operator" "set it to false") -}}
{{- end -}}
{{- if .Values.monitoring.prometheusRule.enabled -}}
{{- $needed = append $needed (list "monitoring.prometheusRule.enabled is true" "monitoring.coreos.com/v1/PrometheusRule" "the Prometheus operator" "set it to false") -}}
{{- end -}}
{{- if .Capabilities.APIVersions.Has "v1/Pod" -}}
{{- range $needed -}}
{{- if not ($.Capabilities.APIVersions.Has (index . 1)) -}}
{{- fail (printf "%s, and this cluster does not serve %s: install %s or newer, or %s" (index . 0) (index . 1) (index . 2) (index . 3)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Models: where a path leads, and what the pods keep of downloads. */ -}}
{{- define "asyncds.checkModel" -}}
{{- $model := .Values.model -}}
{{- if and (hasPrefix (printf "%s/" $model.mountPath) .Values.config.model) (not $model.existingClaim) -}}
{{- fail (printf "config.model %s is below model.mountPath, and no volume is mounted there: set model.existingClaim to a claim with the model" .Values.config.model) -}}
{{- end -}}
{{- if and $model.cache.existingClaim $model.cache.hostPath -}}
{{- fail "model.cache.existingClaim and model.cache.hostPath are both set: set one of them" -}}
{{- end -}}
{{- end }}

{{- /* The journal's limit in GiB: what the configuration says, or three fifths of the coordinator's volume. */ -}}
{{- define "asyncds.journalGb" -}}
{{- $room := divf (include "asyncds.amount" .Values.coordinator.storage.size | float64) 1073741824 -}}
{{- dig "coordinator" "journal_gb" (round (mulf $room 0.6) 1) (deepCopy .Values.config) -}}
{{- end }}

{{- define "asyncds.checkSizes" -}}
{{- $room := divf (include "asyncds.amount" .Values.coordinator.storage.size | float64) 1073741824 -}}
{{- if and (not .Values.coordinator.storage.existingClaim) (ge (include "asyncds.journalGb" . | float64) $room) -}}
{{- fail (printf "config.coordinator.journal_gb %s does not fit the coordinator's volume of %s: raise coordinator.storage.size" (include "asyncds.journalGb" .) .Values.coordinator.storage.size) -}}
{{- end -}}
{{- end }}

{{- /* A quantity of Kubernetes as a number: 1500m is 1.5, 2Gi is 2147483648. */ -}}
{{- define "asyncds.amount" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- $unit := regexFind "[A-Za-z]+$" (toString .) -}}
{{- mulf (regexFind "^[0-9.]+" (toString .) | float64) (ternary (get $units $unit) 1.0 (hasKey $units $unit)) -}}
{{- end }}

{{- /* What a pod asks for and what it may have: (dict "where" <its values' path> "own" <its values>). */ -}}
{{- define "asyncds.checkPods" -}}
{{- $limits := default dict .own.resources.limits -}}
{{- range $name, $request := .own.resources.requests -}}
{{- $limit := get $limits $name -}}
{{- if and $limit (gt (include "asyncds.amount" $request | float64) (include "asyncds.amount" $limit | float64)) -}}
{{- fail (printf "%s.resources.requests.%s %v is above limits.%s %v: lower it, or raise the limit" $.where $name $request $name $limit) -}}
{{- end -}}
{{- end -}}
{{- if and .own.shmSize $limits.memory (gt (include "asyncds.amount" .own.shmSize | float64) (include "asyncds.amount" $limits.memory | float64)) -}}
{{- fail (printf "%s.shmSize %s is above %s.resources.limits.memory %v, which it counts for: lower it, or raise the limit" .where .own.shmSize .where $limits.memory) -}}
{{- end -}}
{{- end }}

{{- /* What the pools must say together. */ -}}
{{- define "asyncds.checkPools" -}}
{{- $engines := 0 -}}
{{- range $name, $values := .Values.generators.pools -}}
{{- $own := include "asyncds.pool" (dict "root" $ "name" $name "pool" $values) | fromYaml -}}
{{- if $own.enabled -}}
{{- $engines = add $engines (ternary $own.autoscaling.maxReplicas $own.replicas $own.autoscaling.enabled | int) -}}
{{- end -}}
{{- end -}}
{{- if lt (int $engines) 1 -}}
{{- fail "no pool has an engine, so nothing would be generated: set replicas of one of generators.pools to 1 or more, or its autoscaling" -}}
{{- end -}}
{{- end }}

{{- /* A pool with the defaults: (dict "root" $ "name" … "pool" …), as YAML. */ -}}
{{- define "asyncds.pool" -}}
{{- $pool := mergeOverwrite (deepCopy .root.Values.generators.defaults) (deepCopy (default dict .pool)) -}}
{{- if and (ne $pool.kind "LeaderWorkerSet") (gt (int $pool.groupSize) 1) -}}
{{- fail (printf "generators.pools.%s.groupSize %v spans several pods: set kind to LeaderWorkerSet" .name $pool.groupSize) -}}
{{- end -}}
{{- if and (eq $pool.kind "LeaderWorkerSet") (not $pool.gpus) -}}
{{- fail (printf "generators.pools.%s: a LeaderWorkerSet spreads an engine over GPUs: set gpus" .name) -}}
{{- end -}}
{{- if and (eq $pool.kind "Job") $pool.autoscaling.enabled -}}
{{- fail (printf "generators.pools.%s.autoscaling: nothing scales a Job: set kind to Deployment" .name) -}}
{{- end -}}
{{- $where := printf "generators.pools.%s" .name -}}
{{- include "asyncds.checkPods" (dict "where" $where "own" $pool) -}}
{{- $config := .root.Values.config -}}
{{- range $key, $name := dict "tensor_parallel" "tensor_parallel_size" "pipeline_parallel" "pipeline_parallel_size" -}}
{{- $said := or (hasKey (default dict $config.generator) $key) (hasKey $pool.overrides (printf "generator.%s" $key)) (hasKey $pool.engineArgs $name) (hasKey (dig "generator" "engine_args" dict (deepCopy $config)) $name) -}}
{{- if $said -}}
{{- fail (printf "%s: how many GPUs an engine has is said by gpus (%s) and groupSize (pipeline_parallel): remove %s" $where "tensor_parallel" $key) -}}
{{- end -}}
{{- end -}}
{{- $scrape := .root.Values.monitoring.podMonitor.enabled -}}
{{- with $pool.autoscaling -}}
{{- if and .enabled (eq .kind "keda") (not .query) (not $scrape) -}}
{{- fail (printf "%s.autoscaling follows the run's metrics, and nothing reads them: set monitoring.podMonitor.enabled to true, or autoscaling.query to a query of yours" $where) -}}
{{- end -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "generators.pools.%s.autoscaling: minReplicas %v is above maxReplicas %v: lower it" $.name .minReplicas .maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- toYaml $pool -}}
{{- end }}

{{- /* What is scaled to zero when the run is over, as a list: <apiVersion>/<plural>/<name>. */ -}}
{{- define "asyncds.freed" -}}
{{- $full := include "asyncds.fullname" . -}}
{{- $freed := list -}}
{{- if .Values.freeAtEnd -}}
{{- if eq .Values.learner.kind "StatefulSet" -}}
{{- $freed = append $freed (printf "apps/v1/statefulsets/%s" (include "asyncds.learnerWorkload" .)) -}}
{{- end -}}
{{- range $pool, $values := .Values.generators.pools -}}
{{- $own := include "asyncds.pool" (dict "root" $ "name" $pool "pool" $values) | fromYaml -}}
{{- $keda := and $own.autoscaling.enabled (eq $own.autoscaling.kind "keda") -}}
{{- if and $own.enabled (not $keda) (ne $own.kind "Job") -}}
{{- $kind := ternary "apps/v1/deployments" "leaderworkerset.x-k8s.io/v1/leaderworkersets" (eq $own.kind "Deployment") -}}
{{- $freed = append $freed (printf "%s/%s-generator-%s" $kind $full $pool) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $freed -}}
{{- end }}

{{- define "asyncds.config" -}}
{{- include "asyncds.check" . -}}
{{- include "asyncds.checkPools" . -}}
{{- include "asyncds.checkCluster" . -}}
{{- $full := include "asyncds.fullname" . -}}
{{- $coordinator := dict "host" (printf "%s-coordinator" $full) "port" .Values.coordinator.port "stay" true "journal_gb" (include "asyncds.journalGb" . | float64) -}}
{{- if .Values.security.curve.existingSecret -}}
{{- $_ := set $coordinator "curve" (dict "server_secret" "/keys/server.key_secret" "clients" "/clients" "server_public" "/keys/server.key" "client_secret" "/keys/client.key_secret") -}}
{{- else -}}
{{- $_ := set $coordinator "allow_unencrypted" true -}}
{{- end -}}
{{- $chart := dict "name" (include "asyncds.runName" .) "runs_dir" "/runs" "coordinator" $coordinator -}}
{{- $telemetry := dict "host" "0.0.0.0" "port" .Values.telemetry.port -}}
{{- if .Values.telemetry.page.enabled -}}{{- $_ := set $telemetry "page" true -}}{{- end -}}
{{- $_ := set $chart "telemetry" $telemetry -}}
{{- $_ := set $chart "learner" (dict "ranks" (mul .Values.learner.nodes (include "asyncds.processes" .))) -}}
{{- if .Values.ray.enabled -}}
{{- $_ := set $chart "scoring" (dict "backend" "ray" "ray_address" (printf "ray://%s-ray-head-svc:10001" $full)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $chart) -}}
{{- end }}

{{- define "asyncds.serviceAccountName" -}}
{{- if .root.Values.serviceAccount.create -}}{{ include "asyncds.fullname" .root }}-{{ .component }}{{- else -}}{{ .root.Values.serviceAccount.name }}{{- end -}}
{{- end }}

{{- define "asyncds.priorityClass" -}}
{{- if .own -}}{{ .own }}{{- else if .root.Values.priorityClasses.create -}}{{ .root.Release.Namespace }}-{{ include "asyncds.fullname" .root }}-{{ .class }}{{- end -}}
{{- end }}

{{- define "asyncds.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: {{ not .lockMemory }}
capabilities:
  drop: [ALL]
  {{- if .lockMemory }}
  add: [IPC_LOCK]
  {{- end }}
{{- end }}

{{- /* A capability takes effect for root alone: memory is locked for RDMA by root, or within the limit that
the container runtime sets. */ -}}
{{- define "asyncds.podSecurityContext" -}}
{{- $root := dig "rdma" "runAsRoot" false (default dict .own) -}}
runAsNonRoot: {{ not $root }}
runAsUser: {{ ternary 0 .root.Values.security.userId $root }}
runAsGroup: {{ .root.Values.security.userId }}
fsGroup: {{ .root.Values.security.userId }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What every pod has: (dict "root" $ "component" … "own" <its values> "class" <priority>). */ -}}
{{- define "asyncds.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ include "asyncds.serviceAccountName" . }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ include "asyncds.podSecurityContext" . | nindent 2 }}
terminationGracePeriodSeconds: {{ .grace }}
{{- with include "asyncds.priorityClass" (dict "root" .root "own" .own.priorityClassName "class" .class) }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .own.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- if .own.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with .own.resourceClaims }}
resourceClaims: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if .own.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range .own.topologySpreadConstraints }}
  - {{ toYaml . | nindent 4 }}
    labelSelector:
      matchLabels: {{ include "asyncds.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if or .gpus .own.tolerations }}
tolerations:
  {{- if .gpus }}
  - {key: {{ .own.gpuResource }}, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .own.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* A pod is replaced when what its role reads has changed: not the learner for a generator's setting. */ -}}
{{- define "asyncds.podAnnotations" -}}
{{- $unread := dict "learner" (list "label" "task" "scoring" "eval" "supervision") "generator" (list "label" "steps" "algorithm" "learner" "weights" "rollout" "checkpoint" "supervision") -}}
{{- $read := include "asyncds.config" .root | fromYaml -}}
{{- range get $unread .component | default list }}{{- $read = unset $read . }}{{- end -}}
{{- if eq .component "learner" }}{{- $_ := set $read "generator" (pick (default dict $read.generator) "max_model_len") }}{{- end -}}
{{- $free := ternary (.root.Files.Get "files/free.py") "" (eq .component "coordinator") -}}
checksum/config: {{ toYaml $read | sha256sum }}
checksum/files: {{ printf "%s%s%s" (.root.Files.Get "files/role.sh") (.root.Files.Get "files/probe.sh") $free | sha256sum }}
{{- with .own.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Overrides of a role as arguments: a list of key=value. */ -}}
{{- define "asyncds.overrides" -}}
{{- range $key, $value := .overrides }}
- {{ printf "%s=%s" $key (toJson $value) | quote }}
{{- end }}
{{- range $key, $value := .engineArgs }}
- {{ printf "generator.engine_args.%s=%s" $key (toJson $value) | quote }}
{{- end }}
{{- if .engine }}
- generator.tensor_parallel={{ .engine.tensor }}
{{- if gt (int .engine.pods) 1 }}
- generator.pipeline_parallel={{ .engine.pods }}
- generator.engine_args.distributed_executor_backend=ray
{{- end }}
{{- end }}
{{- end }}

{{- /* Overrides of a pool's generators. */ -}}
{{- define "asyncds.poolOverrides" -}}
{{- include "asyncds.overrides" (dict "overrides" .overrides "engineArgs" .engineArgs "engine" (dict "tensor" (default 1 .gpus) "pods" .groupSize)) -}}
{{- end }}

{{- define "asyncds.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- range tuple "requests" "limits" -}}
{{- $part := default dict (get $resources .) -}}
{{- if and $.gpus $.gpuResource -}}{{- $_ := set $part $.gpuResource ($.gpus | toString) -}}{{- end -}}
{{- if $.rdma.enabled -}}{{- $_ := set $part $.rdma.resource ($.rdma.count | toString) -}}{{- end -}}
{{- $_ := set $resources . $part -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{- /* Stops a pod whose configuration is refused, with the sentence that says why. */ -}}
{{- define "asyncds.initContainers" -}}
- name: check-config
  image: {{ include "asyncds.image" . | quote }}
  imagePullPolicy: {{ include "asyncds.pullPolicy" . }}
  command: [sh, -c, 'asyncds config show "$@" >/dev/null', check, /etc/asyncds/config.yaml]
  {{- with .args }}
  args: {{ . | nindent 4 }}
  {{- end }}
  env:
    {{- include "asyncds.cacheEnv" . | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 1Gi}
  securityContext: {{ include "asyncds.securityContext" (dict "lockMemory" (dig "rdma" "runAsRoot" false .own)) | nindent 4 }}
  volumeMounts:
    - {name: config, mountPath: /etc/asyncds, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /cache}
    {{- with .own.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- with .own.extraInitContainers }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "asyncds.cacheEnv" -}}
- {name: HOME, value: /cache}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: HF_HOME, value: /cache/huggingface}
- {name: VLLM_CACHE_ROOT, value: /cache/vllm}
- {name: TRITON_CACHE_DIR, value: /cache/triton}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/inductor}
- {name: TORCH_EXTENSIONS_DIR, value: /cache/torch-extensions}
- {name: NUMBA_CACHE_DIR, value: /cache/numba}
- {name: PYTHONDONTWRITEBYTECODE, value: "1"}
{{- end }}

{{- define "asyncds.env" -}}
{{ include "asyncds.cacheEnv" . }}
- {name: CONFIG, value: /etc/asyncds/config.yaml}
- {name: METRICS_PORT, value: {{ .root.Values.telemetry.port | quote }}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
{{- if and .root.Values.model.hfTokenSecret (ne .component "coordinator") }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .root.Values.model.hfTokenSecret }}, key: HF_TOKEN}}
{{- end }}
{{- end }}

{{- define "asyncds.envFrom" -}}
{{- $sources := default list .own.envFrom -}}
{{- if and (eq .component "coordinator") .root.Values.telemetry.trackersSecret -}}
{{- $sources = prepend $sources (dict "secretRef" (dict "name" .root.Values.telemetry.trackersSecret)) -}}
{{- end -}}
{{- with $sources }}
envFrom: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "asyncds.probes" -}}
startupProbe:
  exec: {command: [sh, /opt/asyncds/probe.sh]}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: {{ mul 6 .minutes }}
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 10
livenessProbe:
  exec: {command: [sh, /opt/asyncds/probe.sh]}
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end }}

{{- define "asyncds.volumeMounts" -}}
- {name: config, mountPath: /etc/asyncds, readOnly: true}
- {name: files, mountPath: /opt/asyncds, readOnly: true}
- {name: runs, mountPath: /runs}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- if .shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if and .root.Values.model.existingClaim (ne .component "coordinator") }}
- {name: model, mountPath: {{ .root.Values.model.mountPath }}, readOnly: true}
{{- end }}
{{- if and (ne .component "coordinator") (or .root.Values.model.cache.existingClaim .root.Values.model.cache.hostPath) }}
- {name: downloads, mountPath: /cache/huggingface}
{{- end }}
{{- with .own.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- if .root.Values.security.curve.existingSecret }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- if eq .component "coordinator" }}
- {name: clients, mountPath: /clients, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "asyncds.volumes" -}}
- {name: config, configMap: {name: {{ include "asyncds.fullname" .root }}-config}}
- {name: files, configMap: {name: {{ include "asyncds.fullname" .root }}-files}}
- {name: tmp, emptyDir: {}}
{{- with .root.Values.model.cache }}
- {name: cache, emptyDir: {sizeLimit: {{ .sizeLimit }}}}
{{- if eq $.component "coordinator" }}
{{- else if .existingClaim }}
- {name: downloads, persistentVolumeClaim: {claimName: {{ .existingClaim }}}}
{{- else if .hostPath }}
- {name: downloads, hostPath: {path: {{ .hostPath }}, type: DirectoryOrCreate}}
{{- end }}
{{- end }}
{{- with .own.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- with .shmSize }}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ . }}}}
{{- end }}
{{- if and .root.Values.model.existingClaim (ne .component "coordinator") }}
- {name: model, persistentVolumeClaim: {claimName: {{ .root.Values.model.existingClaim }}, readOnly: true}}
{{- end }}
{{- if .root.Values.security.curve.existingSecret }}
- name: keys
  secret:
    secretName: {{ .root.Values.security.curve.existingSecret }}
    defaultMode: 0440
    items:
      {{- if eq .component "coordinator" }}
      - {key: server.key_secret, path: server.key_secret}
      {{- else }}
      - {key: server.key, path: server.key}
      - {key: {{ .component }}.key_secret, path: client.key_secret}
      {{- end }}
{{- if eq .component "coordinator" }}
- name: clients
  secret: {secretName: {{ .root.Values.security.curve.clientsSecret }}}
{{- end }}
{{- end }}
{{- end }}


{{- /* A claim that stays when the release goes, and grows where its storage class lets it: (dict "it" … "name"
… "storage" … "accessMode" …). */ -}}
{{- define "asyncds.claim" }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  labels: {{ include "asyncds.labels" .it | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [{{ .accessMode }}]
  {{- with .storage.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ .storage.size }}}
{{- end }}
