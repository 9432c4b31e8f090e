{{- define "asyncds.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
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

{{- define "asyncds.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
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
{{- if and .Values.ray.enabled (hasKey $config "scoring") -}}
{{- range list "backend" "ray_address" -}}
{{- if hasKey $config.scoring . -}}{{- fail (printf "config.scoring.%s is set by the chart when ray.enabled is true: remove it" .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: set serviceAccount.name to an account that exists" -}}
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
{{- with $pool.autoscaling -}}
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
{{- $freed = append $freed (printf "apps/v1/statefulsets/%s-learner" $full) -}}
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
{{- $full := include "asyncds.fullname" . -}}
{{- $coordinator := dict "host" (printf "%s-coordinator" $full) "port" .Values.coordinator.port "stay" true -}}
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
runAsNonRoot: true
capabilities:
  drop: [ALL]
  {{- if .rdma }}
  add: [IPC_LOCK]
  {{- end }}
{{- end }}

{{- define "asyncds.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.userId }}
runAsGroup: {{ .Values.security.userId }}
fsGroup: {{ .Values.security.userId }}
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
securityContext: {{ include "asyncds.podSecurityContext" .root | nindent 2 }}
terminationGracePeriodSeconds: {{ .grace }}
{{- with include "asyncds.priorityClass" (dict "root" .root "own" .own.priorityClassName "class" .class) }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if or .gpus .own.tolerations }}
tolerations:
  {{- if .gpus }}
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
  {{- end }}
  {{- with .own.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "asyncds.podAnnotations" -}}
checksum/config: {{ include "asyncds.config" .root | sha256sum }}
checksum/files: {{ printf "%s%s%s" (.root.Files.Get "files/role.sh") (.root.Files.Get "files/probe.sh") (.root.Files.Get "files/free.py") | sha256sum }}
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

{{- define "asyncds.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- range tuple "requests" "limits" -}}
{{- $part := default dict (get $resources .) -}}
{{- if $.gpus -}}{{- $_ := set $part "nvidia.com/gpu" ($.gpus | toString) -}}{{- end -}}
{{- if $.rdma.enabled -}}{{- $_ := set $part $.rdma.resource ($.rdma.count | toString) -}}{{- end -}}
{{- $_ := set $resources . $part -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{- /* Stops a pod whose configuration is refused, with the sentence that says why. */ -}}
{{- define "asyncds.initContainers" -}}
- name: check-config
  image: {{ include "asyncds.image" .root | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -c, 'asyncds config show "$@" >/dev/null', check, /etc/asyncds/config.yaml]
  {{- with .args }}
  args: {{ . | nindent 4 }}
  {{- end }}
  env:
    {{- include "asyncds.cacheEnv" . | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 256Mi}
    limits: {memory: 1Gi}
  securityContext: {{ include "asyncds.securityContext" dict | nindent 4 }}
  volumeMounts:
    - {name: config, mountPath: /etc/asyncds, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    - {name: cache, mountPath: /cache}
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
- {name: cache, emptyDir: {}}
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
