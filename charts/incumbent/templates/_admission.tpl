{{- define "incumbent.username" -}}
system:serviceaccount:{{ include "incumbent.namespace" . }}:{{ include "incumbent.serviceAccountName" . }}
{{- end }}

{{/* Under which label keys elections may be, as a list of CEL. */}}
{{- define "incumbent.prefixes" -}}
{{- $prefixes := list }}
{{- range prepend .Values.labelPrefixes "incumbent.dev" }}
{{- $prefixes = append $prefixes (printf "'%s/'" (trimSuffix "/" .)) }}
{{- end -}}
"[{{ join ", " $prefixes }}]"
{{- end }}

{{/* Variables of a policy about pods. */}}
{{- define "incumbent.ownKeys" -}}
- name: prefixes
  expression: {{ include "incumbent.prefixes" . }}
- name: labels
  expression: object.metadata.?labels.orValue({})
- name: oldLabels
  expression: "oldObject == null ? {} : oldObject.metadata.?labels.orValue({})"
- name: annotations
  expression: object.metadata.?annotations.orValue({})
- name: oldAnnotations
  expression: "oldObject == null ? {} : oldObject.metadata.?annotations.orValue({})"
{{- end }}

{{/* In which namespaces a policy holds: where this release's operator looks for elections. */}}
{{- define "incumbent.matchNamespaces" -}}
{{- with include "incumbent.namespaces" . | fromJsonArray -}}
matchResources:
  namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values: {{ toJson . }}
{{- end }}
{{- end }}

{{/* Puts a policy into force, in these namespaces. Takes `root`, the policy's `name`, and an `action`. */}}
{{- define "incumbent.policyBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "incumbent.labels" (dict "root" .root) | nindent 4 }}
  {{- with include "incumbent.annotations" (dict "root" .root) | trim }}
  {{- nindent 2 . }}
  {{- end }}
spec:
  policyName: {{ .name }}
  validationActions: [{{ .action }}]
  {{- include "incumbent.matchNamespaces" .root | nindent 2 }}
{{- end }}
