{{- define "metainf.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "metainf.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "metainf.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "metainf.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Cluster-scoped names carry the namespace: releases of one name may stand in several. */}}
{{- define "metainf.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "metainf.fullname" .) }}
{{- end }}

{{- define "metainf.selectorLabels" -}}
app.kubernetes.io/name: {{ include "metainf.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "metainf.labels" -}}
{{ include "metainf.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "metainf.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "metainf.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "metainf.subject" -}}
- kind: ServiceAccount
  name: {{ include "metainf.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "metainf.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "metainf.leaseName" -}}
{{- default (ternary (include "metainf.fullname" .) "metainf-operator" (gt (len .Values.watch.namespaces) 0)) .Values.leaderElection.leaseName }}
{{- end }}

{{/* Whether pools come from a file, and the ConfigMap that holds it. */}}
{{- define "metainf.poolsConfigMap" -}}
{{- if .Values.pools.configMap.name }}
{{- .Values.pools.configMap.name }}
{{- else if .Values.pools.manifests }}
{{- printf "%s-pools" (include "metainf.fullname" .) }}
{{- end }}
{{- end }}

{{- define "metainf.nodeFactsName" -}}
{{- printf "%s-node-facts" (include "metainf.fullname" .) }}
{{- end }}

{{/*
Whether the policy of node facts is made. Without a cluster to ask (helm template, Argo CD) only groups are known and no
kinds: Kubernetes has had these since 1.30, and the chart needs 1.31.
*/}}
{{- define "metainf.nodeFactsPolicy" -}}
{{- $served := .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" }}
{{- $asked := .Capabilities.APIVersions.Has "v1/Node" }}
{{- if and .Values.nodeFacts.enabled .Values.nodeFacts.admissionPolicy (or $served (not $asked)) }}true{{ end }}
{{- end }}

{{/* Keys that they write: LABEL_PATTERN of metainf_operator/node_facts/labels.py. */}}
{{- define "metainf.nodeFactsLabels" -}}
^(nvidia\.com/(cuda\.(driver|runtime)(-version)?\.(major|minor|rev|revision|full)|mig\.(capable|strategy)|gpu\.(machine|mode|family|compute\.(major|minor))|(gpu|mig-[0-9a-z.]+)\.(product|count|memory|multiprocessors|slices\.(gi|ci)|engines\.(copy|decoder|encoder|jpeg|ofa)))|metainf\.dev/gpu\.[a-z-]+)$
{{- end }}

{{/* What the pods of node facts need beyond the restricted standard, and nothing where a toolkit gives them whole GPUs. */}}
{{- define "metainf.nodeFactsSecurityContext" -}}
{{- with .Values.nodeFacts }}
{{- if .securityContext }}
{{- toYaml .securityContext }}
{{- else if .driverRoot }}
# Nothing gives a device of the node to a pod without a toolkit, but this.
privileged: true
runAsUser: 0
readOnlyRootFilesystem: true
{{- else if ne .migStrategy "none" }}
# The toolkit shows all MIG slices (NVIDIA_MIG_MONITOR_DEVICES) only to who has this capability.
runAsUser: 0
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [SYS_ADMIN]
{{- else }}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
{{- end }}
{{- end }}

{{/* What no schema can say of two values together. */}}
{{- define "metainf.check" -}}
{{- if and (not .Values.rbac.nodeAccess) (not (include "metainf.poolsConfigMap" .)) }}
{{- fail "\n\nrbac.nodeAccess is false, so the pools to choose among must be given: set pools.manifests\n(--set-file pools.manifests=pools.yaml) or pools.configMap.name" }}
{{- end }}
{{- if and .Values.rbac.nodeAccess (include "metainf.poolsConfigMap" .) }}
{{- fail "\n\npools is read only where Nodes are not: set rbac.nodeAccess to false, or apply the AcceleratorPools to the cluster" }}
{{- end }}
{{- if and .Values.pools.manifests .Values.pools.configMap.name }}
{{- fail "\n\nset one of pools.manifests and pools.configMap.name, not both" }}
{{- end }}
{{- with .Values.leaderElection }}
{{- if not (and (lt (int .retryPeriodSeconds) (int .renewDeadlineSeconds)) (lt (int .renewDeadlineSeconds) (int .durationSeconds))) }}
{{- fail "\n\nleaderElection: retryPeriodSeconds must be shorter than renewDeadlineSeconds, and that shorter than durationSeconds" }}
{{- end }}
{{- end }}
{{- if and .Values.nodeFacts.enabled (not .Values.rbac.nodeAccess) }}
{{- fail "\n\nnodeFacts labels Nodes, which the operator does not read while rbac.nodeAccess is false" }}
{{- end }}
{{- if lt (int .Values.operator.observeWindowSeconds) (mul 2 (int .Values.operator.observeIntervalSeconds) | int) }}
{{- fail "\n\noperator.observeWindowSeconds must be at least twice operator.observeIntervalSeconds: a window needs two readings" }}
{{- end }}
{{- if gt (int .Values.operator.observeWindowSeconds) 3600 }}
{{- fail "\n\noperator.observeWindowSeconds must be at most 3600: what was seen longer ago says little of the traffic" }}
{{- end }}
{{- if and (gt (int .Values.operator.observeIntervalSeconds) 0) (gt (int .Values.operator.observeWindowSeconds) (mul 120 (int .Values.operator.observeIntervalSeconds) | int)) }}
{{- fail "\n\noperator.observeWindowSeconds must be at most 120 times operator.observeIntervalSeconds: each reading sums up all of a window" }}
{{- end }}
{{- if ge (int .Values.operator.drainSeconds) (int .Values.terminationGracePeriodSeconds) }}
{{- fail "\n\noperator.drainSeconds must be less than terminationGracePeriodSeconds, so that the Lease is still released" }}
{{- end }}
{{- end }}
