{{/*
What the operator calls, and nothing else: tests/test_chart_roles.py compares these rules with its code, in both directions.
They hold no actions, so that the test can read them as YAML.
*/}}

{{/* Of each namespace whose workloads are served. Server-side apply is patch, and create where nothing is there yet. */}}
{{- define "metainf.rules.workloads" -}}
- apiGroups: [metainf.dev]
  resources: [inferenceworkloads]
  verbs: [list, watch]
- apiGroups: [metainf.dev]
  resources: [inferenceworkloads/status, inferencedecisions/status]
  verbs: [patch]
# For blockOwnerDeletion in ownerReferences, where the admission plugin OwnerReferencesPermissionEnforcement is on.
- apiGroups: [metainf.dev]
  resources: [inferenceworkloads/finalizers]
  verbs: [update]
- apiGroups: [metainf.dev]
  resources: [inferencedecisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* Of the whole cluster: which accelerators there are, and what else runs on them. */}}
{{- define "metainf.rules.inventory" -}}
- apiGroups: [""]
  resources: [nodes, pods]
  verbs: [list, watch]
- apiGroups: [metainf.dev]
  resources: [acceleratorpools]
  verbs: [list, watch]
- apiGroups: [metainf.dev]
  resources: [acceleratorpools/status]
  verbs: [patch]
{{- end }}

{{/* Of the pods that label their nodes; templates/node-facts-policy.yaml narrows it to the node that a pod runs on. */}}
{{- define "metainf.rules.nodeFacts" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, patch]
{{- end }}
