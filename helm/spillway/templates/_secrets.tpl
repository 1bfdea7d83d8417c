{{/* What a Secret of this install has under a key, in base64; nothing when it is not there. (list ROOT NAME KEY) */}}
{{- define "spillway.kept" -}}
{{- $root := index . 0 -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 1) | default dict -}}
{{- get ($secret.data | default dict) (index . 2) -}}
{{- end }}

{{/* Secrets of the user's, as a list of {name, secret, key, path}; without a key the whole Secret is the folder. */}}
{{- define "spillway.givenSecrets" -}}
{{- with .Values.tls.secretName }}
- {name: tls, secret: {{ . }}}
{{- end }}
{{- if and (eq .Values.state.store "external") .Values.state.external.secretName }}
- {name: state, secret: {{ .Values.state.external.secretName }}, key: {{ .Values.state.external.secretKey }}, path: url}
{{- end }}
{{- range .Values.secretFiles }}
- {name: {{ .name }}, secret: {{ .secretName }}}
{{- end }}
{{- end }}

{{/* These, and those that the chart makes. */}}
{{- define "spillway.allSecrets" -}}
{{- include "spillway.givenSecrets" . }}
- {name: admin, secret: {{ include "spillway.adminSecretName" . }}, key: {{ .Values.admin.secretKey }}, path: token}
{{- if eq .Values.state.store "bundled" }}
- {name: state, secret: {{ include "spillway.valkeySecretName" . }}, key: url, path: url}
{{- end }}
{{- end }}

{{- define "spillway.secretMounts" -}}
{{- range include "spillway.allSecrets" . | fromYamlArray }}
- {name: secret-{{ .name }}, mountPath: /etc/spillway/secrets/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "spillway.secretVolumes" -}}
{{- range include "spillway.allSecrets" . | fromYamlArray }}
{{ include "spillway.secretVolume" . }}
{{- end }}
{{- end }}

{{/* Readable by the pod's fsGroup alone. */}}
{{- define "spillway.secretVolume" -}}
- name: secret-{{ .name }}
  secret:
    secretName: {{ .secret }}
    defaultMode: 0440
    {{- if .key }}
    items: [{key: {{ .key }}, path: {{ .path }}}]
    {{- end }}
{{- end }}
