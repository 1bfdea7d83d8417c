{{- define "spillway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* At most 40 characters, so that the longest suffix still fits into 63. */}}
{{- define "spillway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "spillway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "spillway.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What every pod of this install has; a selector adds the component. */}}
{{- define "spillway.instanceLabels" -}}
app.kubernetes.io/name: {{ include "spillway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* (list ROOT COMPONENT) */}}
{{- define "spillway.selector" -}}
{{ include "spillway.instanceLabels" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* (list ROOT COMPONENT) */}}
{{- define "spillway.labels" -}}
{{- $root := index . 0 -}}
{{ include "spillway.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* Without versions: a new one of the chart alone replaces no pod. (list ROOT COMPONENT) */}}
{{- define "spillway.podLabels" -}}
{{ include "spillway.selector" . }}
{{- with (index . 0).Values.region }}
region: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "spillway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "spillway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* (dict "image" MAP "tag" DEFAULT-TAG) */}}
{{- define "spillway.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end }}

{{- define "spillway.adminSecretName" -}}
{{- default (printf "%s-admin" (include "spillway.fullname" .)) .Values.admin.existingSecret -}}
{{- end }}

{{- define "spillway.valkeySecretName" -}}
{{- default (printf "%s-valkey" (include "spillway.fullname" .)) .Values.valkey.existingSecret -}}
{{- end }}

{{/* What Prometheus calls the pods of this install, inside { }. */}}
{{- define "spillway.metricSelector" -}}
namespace="{{ .Release.Namespace }}",job="{{ include "spillway.fullname" . }}-admin"
{{- end }}

{{/* Of the data port. */}}
{{- define "spillway.scheme" -}}
{{- empty .Values.tls.secretName | ternary "http" "https" -}}
{{- end }}
