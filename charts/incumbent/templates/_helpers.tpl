{{/* The name of all objects, short enough for what is put behind it: `-nats`, and behind that the
hash of a StatefulSet's revision, in a label of 63 characters. */}}
{{- define "incumbent.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- default $name .Values.fullnameOverride | replace "." "-" | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{- define "incumbent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{/* The name of objects that belong to no namespace, of which two releases of one name have each their own. */}}
{{- define "incumbent.clusterName" -}}
{{- $name := include "incumbent.fullname" . -}}
{{- $namespace := include "incumbent.namespace" . -}}
{{- ternary $name (printf "%s.%s" $name $namespace) (eq $name $namespace) -}}
{{- end }}

{{- define "incumbent.serviceAccountName" -}}
{{- default (ternary (include "incumbent.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{/* The watched namespaces as a JSON list, empty for all. */}}
{{- define "incumbent.namespaces" -}}
{{- toJson .Values.watch.namespaces -}}
{{- end }}

{{- define "incumbent.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "incumbent.natsSelectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: nats
{{- end }}

{{/* All labels of an object: root, labels, own. Where keys are the same, the chart's own count, for selectors and
`kubectl incumbent` look for them. */}}
{{- define "incumbent.labels" -}}
{{- $own := .own | default (include "incumbent.selectorLabels" .root | fromYaml) -}}
{{- $chart := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63)
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "incumbent"
-}}
{{- toYaml (merge (dict) $own $chart (.labels | default dict) (.root.Values.commonLabels | default dict)) -}}
{{- end }}

{{/* The key `annotations` with all annotations of an object, or nothing: root, annotations. */}}
{{- define "incumbent.annotations" -}}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image's reference: root, image. */}}
{{- define "incumbent.image" -}}
{{- $registry := default .image.registry .root.Values.global.imageRegistry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end -}}
{{- end }}

{{- define "incumbent.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether this is rendered for a cluster that was asked for its kinds. `helm template` knows none, and
whoever applies what it prints would create the hooks like any other object. */}}
{{- define "incumbent.hooks" -}}
{{- if .Capabilities.APIVersions.Has "apps/v1/Deployment" }}true{{ end -}}
{{- end }}

{{/* What the pods of the operator's image have in common. */}}
{{- define "incumbent.podSpec" -}}
{{- with include "incumbent.imagePullSecrets" . | trim }}
{{ . }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with omit .Values.extraPodSpec "restartPolicy" "activeDeadlineSeconds" }}
{{ toYaml . }}
{{- end }}
{{- with .Values.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same for a pod that runs once, as a hook. The operator's affinity to other pods is not for it: it must
run while the operator's pods do. */}}
{{- define "incumbent.hookPodSpec" -}}
restartPolicy: Never
{{- include "incumbent.podSpec" . }}
{{- with pick .Values.affinity "nodeAffinity" }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The ports of the operator's pods as a JSON list of name and port. */}}
{{- define "incumbent.ports" -}}
{{- $found := list -}}
{{- range $name := list "http" "metrics" "probes" -}}
{{- with int (index $.Values.ports $name) -}}
{{- $found = append $found (dict "name" $name "port" .) -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* A probe: root, probe. With a port for probes, one of the port `http` goes there. */}}
{{- define "incumbent.probe" -}}
{{- $probe := deepCopy .probe -}}
{{- if and (int .root.Values.ports.probes) (eq "http" (toString (dig "httpGet" "port" "" $probe))) -}}
{{- $_ := set $probe.httpGet "port" "probes" -}}
{{- end -}}
{{- toYaml $probe -}}
{{- end }}

{{/* The URLs of NATS as a JSON list. */}}
{{- define "incumbent.natsUrls" -}}
{{- if not .Values.nats.url -}}
{{- list (printf "nats://%s-nats.%s.svc:4222" (include "incumbent.fullname" .) (include "incumbent.namespace" .)) | toJson -}}
{{- else if kindIs "string" .Values.nats.url -}}
{{- splitList "," (nospace .Values.nats.url) | compact | toJson -}}
{{- else -}}
{{- toJson .Values.nats.url -}}
{{- end -}}
{{- end }}

{{/* The Secret with a user name and a password, and its keys: that of `nats.auth.userPassword`, or that of the
chart's own server. A release that reuses the values of an earlier version lacks `nats.builtIn.auth`. */}}
{{- define "incumbent.natsUserPassword" -}}
{{- if .Values.nats.url -}}
{{- toYaml .Values.nats.auth.userPassword -}}
{{- else -}}
{{- $own := dict "secretName" (printf "%s-nats" (include "incumbent.fullname" .)) "usernameKey" "username" "passwordKey" "password" -}}
{{- $given := .Values.nats.builtIn.auth | default dict -}}
{{- ternary $own $given (empty $given.secretName) | toYaml -}}
{{- end -}}
{{- end }}

{{/* Whether the chart makes that Secret: a password that helm could not find again would be another one after each
rendering. So nothing is made unless the cluster answers, which `helm template` and Argo CD do not ask. What every
cluster has is asked for: its bindings, if whoever installs this needs rights for the whole cluster, otherwise an account
of the namespace. A Secret that somebody else made is left alone. */}}
{{- define "incumbent.natsSecret" -}}
{{- $login := include "incumbent.natsUserPassword" . | fromYaml -}}
{{- $namespace := include "incumbent.namespace" . -}}
{{- if and (not .Values.nats.url) (empty (.Values.nats.builtIn.auth | default dict).secretName) -}}
{{- $found := lookup "v1" "Secret" $namespace $login.secretName -}}
{{- if $found -}}
{{- if eq .Release.Name (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $found) }}true{{ end -}}
{{- else if or .Values.crds.enabled (and .Values.rbac.create (empty .Values.watch.namespaces)) -}}
{{- if (lookup "rbac.authorization.k8s.io/v1" "ClusterRoleBinding" "" "").items }}true{{ end -}}
{{- else if lookup "v1" "ServiceAccount" $namespace "default" -}}
true
{{- end -}}
{{- end -}}
{{- end }}

{{/* The configuration of the chart's own server. The user is one of the global account, in which earlier versions of
the chart, without a password, have kept the bucket. It may create and use buckets and streams, but neither change,
empty nor delete any. */}}
{{- define "incumbent.natsConfig" -}}
authorization {
  users: [
    {
      user: $NATS_USERNAME
      password: $NATS_PASSWORD
      permissions: {
        publish: [
          "$JS.API.STREAM.CREATE.*"     # the bucket, until there is one
          "$JS.API.STREAM.INFO.*"       # its settings, now and then
          "$JS.API.STREAM.MSG.GET.*"    # a look at a key
          "$JS.API.CONSUMER.CREATE.>"   # the watch
          "$KV.>"                       # records
          {{- with .Values.nats.historyStream }}
          "{{ . }}.>"  # terms
          {{- end }}
        ]
        subscribe: [
          "{{ .Values.nats.inboxPrefix }}.>"  # answers, and what the watch delivers
        ]
      }
    }
  ]
}
{{- end }}

{{/* The flags that say where NATS is and how to log in. */}}
{{- define "incumbent.natsFlags" -}}
{{- $auth := .Values.nats.auth -}}
{{- range include "incumbent.natsUrls" . | fromJsonArray }}
- --nats-url={{ . }}
{{- end }}
{{- with .Values.nats.domain }}
- --nats-domain={{ . }}
{{- end }}
{{- if ne .Values.nats.inboxPrefix "_INBOX" }}
- --nats-inbox-prefix={{ .Values.nats.inboxPrefix }}
{{- end }}
{{- if ne .Values.nats.connectTimeout "2s" }}
- --nats-connect-timeout={{ .Values.nats.connectTimeout }}
{{- end }}
{{- if $auth.credentials.secretName }}
- --nats-creds=/etc/incumbent/nats/user.creds
{{- end }}
{{- if $auth.nkey.secretName }}
- --nats-nkey=/etc/incumbent/nats/nkey.seed
{{- end }}
{{- if $auth.token.secretName }}
- --nats-token-file=/etc/incumbent/nats/token
{{- end }}
{{- if (include "incumbent.natsUserPassword" . | fromYaml).secretName }}
- --nats-password-file=/etc/incumbent/nats/password
{{- end }}
{{- with .Values.nats.tls }}
{{- if or .ca.secretName .ca.configMapName }}
- --nats-tls-ca=/etc/incumbent/nats/ca.crt
{{- end }}
{{- if .client.secretName }}
- --nats-tls-cert=/etc/incumbent/nats/tls.crt
- --nats-tls-key=/etc/incumbent/nats/tls.key
{{- end }}
{{- if .first }}
- --nats-tls-first
{{- end }}
{{- end }}
- --bucket={{ .Values.nats.bucket.name }}
{{- end }}

{{/* One source of the projected volume: source (secret or configMap), name, items (path: key). */}}
{{- define "incumbent.natsSource" -}}
- {{ .source }}:
    name: {{ .name }}
    items:
    {{- range $path, $key := .items }}
      - key: {{ $key }}
        path: {{ $path }}
    {{- end }}
{{- end }}

{{/* The files by which to log in to NATS, as sources of a projected volume. */}}
{{- define "incumbent.natsSources" -}}
{{- $auth := .Values.nats.auth -}}
{{- with $auth.credentials }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "user.creds" .key)) }}
{{- end }}{{ end }}
{{- with $auth.nkey }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "nkey.seed" .key)) }}
{{- end }}{{ end }}
{{- with $auth.token }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "token" .key)) }}
{{- end }}{{ end }}
{{- with include "incumbent.natsUserPassword" . | fromYaml }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "password" .passwordKey)) }}
{{- end }}{{ end }}
{{- with .Values.nats.tls.ca }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "ca.crt" .key)) }}
{{- else if .configMapName }}
{{ include "incumbent.natsSource" (dict "source" "configMap" "name" .configMapName "items" (dict "ca.crt" .key)) }}
{{- end }}{{ end }}
{{- with .Values.nats.tls.client }}{{ if .secretName }}
{{ include "incumbent.natsSource" (dict "source" "secret" "name" .secretName "items" (dict "tls.crt" .certificateKey "tls.key" .privateKeyKey)) }}
{{- end }}{{ end }}
{{- end }}

{{- define "incumbent.natsVolume" -}}
{{- with include "incumbent.natsSources" . | trim }}
- name: nats
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "incumbent.natsMount" -}}
{{- if include "incumbent.natsSources" . | trim }}
- name: nats
  mountPath: /etc/incumbent/nats
  readOnly: true
{{- end }}
{{- end }}

{{/* The environment: our own variables, but for those that `extraEnv` gives. Server-side apply,
which helm 4 does, accepts no name twice. */}}
{{- define "incumbent.env" -}}
{{- $given := list -}}
{{- range .Values.extraEnv }}{{ $given = append $given .name }}{{ end -}}
{{- $auth := include "incumbent.natsUserPassword" . | fromYaml -}}
{{- $env := .Values.extraEnv -}}
{{- if and $auth.secretName (not (has "INCUMBENT_NATS_USER" $given)) -}}
{{- $from := dict "secretKeyRef" (dict "name" $auth.secretName "key" $auth.usernameKey) -}}
{{- $env = prepend $env (dict "name" "INCUMBENT_NATS_USER" "valueFrom" $from) -}}
{{- end -}}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Whether a kind of the Prometheus operator is to be rendered: root, value, kind. */}}
{{- define "incumbent.monitoringKind" -}}
{{- $monitoring := .root.Values.monitoring -}}
{{- if (index $monitoring .value).enabled -}}
{{- if or (eq $monitoring.whenKindIsMissing "render") (.root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) -}}
true
{{- else if eq $monitoring.whenKindIsMissing "fail" -}}
{{- printf "monitoring.%s needs the kind %s, which the cluster does not know: install the Prometheus operator first, or set monitoring.whenKindIsMissing to skip or render." .value .kind | fail -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The releases beside this one that serve elections of the same namespaces, as a JSON list of sentences: by the
bindings of their operators. Where nobody was asked, as by `helm template`, there are none. */}}
{{- define "incumbent.otherReleases" -}}
{{- $namespaces := include "incumbent.namespaces" . | fromJsonArray -}}
{{- $account := printf "%s/%s" (include "incumbent.namespace" .) (include "incumbent.serviceAccountName" .) -}}
{{- $api := "rbac.authorization.k8s.io/v1" -}}
{{- $bindings := list -}}
{{- if or (not $namespaces) .Values.crds.enabled .Values.admissionPolicies.inNamespacedMode -}}
{{- /* Otherwise whoever installs this need not have the right to look. */ -}}
{{- $bindings = (lookup $api "ClusterRoleBinding" "" "").items | default list -}}
{{- end -}}
{{- range $namespaces | default (list "") -}}
{{- $bindings = concat $bindings ((lookup $api "RoleBinding" . "").items | default list) -}}
{{- end -}}
{{- $found := dict -}}
{{- range $binding := $bindings -}}
{{- $labels := $binding.metadata.labels | default dict -}}
{{- if and (eq "incumbent" (get $labels "app.kubernetes.io/part-of")) (eq "operator" (get $labels "app.kubernetes.io/component")) -}}
{{- range $binding.subjects -}}
{{- if ne $account (printf "%s/%s" .namespace .name) -}}
{{- $where := empty $binding.metadata.namespace | ternary "all namespaces" (printf "the namespace %s" $binding.metadata.namespace) -}}
{{- $release := get $labels "app.kubernetes.io/instance" -}}
{{- $found = set $found (printf "the release %s in the namespace %s serves the elections of %s" $release .namespace $where) true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- keys $found | sortAlpha | toJson -}}
{{- end }}

{{/* Whether the definition of elections was applied from `crds/`, and so belongs to no release. helm would refuse to
install over it, so it is left as it is. Its annotation keeps helm from ever deleting it, also if a release had it
before. */}}
{{- define "incumbent.foreignDefinition" -}}
{{- with (lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "leaderelections.incumbent.dev").metadata -}}
{{- $annotations := .annotations | default dict -}}
{{- if and (eq "keep" (get $annotations "helm.sh/resource-policy"))
  (not (hasKey $annotations "meta.helm.sh/release-name"))
  (ne "Helm" (get (.labels | default dict) "app.kubernetes.io/managed-by")) -}}
true
{{- end -}}
{{- end -}}
{{- end }}
