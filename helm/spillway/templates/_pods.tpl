{{/* The frame of a pod that runs once and ends: (dict "root" ROOT "component" NAME), in a pod's spec. */}}
{{- define "spillway.oncePod" -}}
{{- $root := .root -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What is the same in each container that runs the gateway's image. */}}
{{- define "spillway.onceContainer" -}}
image: {{ include "spillway.image" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {memory: 256Mi}
securityContext: {{- toYaml .Values.securityContext | nindent 2 }}
# So that the reason stands in the pod's status, too.
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}
