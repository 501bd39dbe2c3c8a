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

{{/* Variables of a policy about pods. Only the first of them look at every label, because a pod may have very many, and
an expression that costs too much is refused. */}}
{{- define "incumbent.ownKeys" -}}
- name: prefixes
  expression: {{ include "incumbent.prefixes" . }}
{{- range $part := tuple "labels" "annotations" }}
{{- $old := printf "old%s" (title $part) }}
- name: {{ $part }}
  expression: object.metadata.?{{ $part }}.orValue({})
- name: {{ $old }}
  expression: "oldObject == null ? {} : oldObject.metadata.?{{ $part }}.orValue({})"
- name: set{{ title $part }}
  expression: >-
    variables.{{ $part }}.filter(key, !(key in variables.{{ $old }}
    && variables.{{ $old }}[key] == variables.{{ $part }}[key]))
- name: removed{{ title $part }}
  expression: variables.{{ $old }}.filter(key, !(key in variables.{{ $part }}))
{{- end }}
{{- end }}

{{/* The users that create pods from templates, as a list of CEL. */}}
{{- define "incumbent.controllers" -}}
{{- toJson .Values.admissionPolicies.labels.controllers -}}
{{- end }}

{{/* Variables of a policy that holds for everybody but operators: whether a request comes from the operator of another
release, and what to tell people who are none. */}}
{{- define "incumbent.another" -}}
# The operator of another release has this verb by its name, and not because it may do everything.
- name: another
  expression: >-
    authorizer.group('incumbent.dev').resource('leaderelections').namespace(request.namespace)
    .check('serve').allowed()
    && !authorizer.group('incumbent.dev').resource('leaderelections').namespace(request.namespace)
    .check('*').allowed()
- name: advice
  expression: >-
    request.userInfo.username.startsWith('system:serviceaccount:')
    ? 'if ' + request.userInfo.username + ' is the operator of another release, it needs the right to "serve" leaderelections'
    : 'to have another pod lead, annotate the election with incumbent.dev/step-down'
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
