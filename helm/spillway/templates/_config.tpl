{{/* Whole seconds of a duration of the gateway's: 250ms, 1.5m, 1h. (dict "text" T "key" K) */}}
{{- define "spillway.seconds" -}}
{{- $text := toString .text -}}
{{- if not (regexMatch "^[0-9]+([.][0-9]+)? ?(ms|s|m|h)$" $text) -}}
{{- fail (printf "config.%s: must be a duration such as 30s or 10m, not %q" .key $text) -}}
{{- end -}}
{{- $unit := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) (regexFind "[a-z]+$" $text) -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) $unit | ceil | int -}}
{{- end }}

{{/* The port of a host:port. (dict "text" T "key" K) */}}
{{- define "spillway.port" -}}
{{- $port := regexFind "[0-9]+$" (toString .text) -}}
{{- if not $port -}}{{- fail (printf "config.%s: must be host:port, not %q" .key (toString .text)) -}}{{- end -}}
{{- $port -}}
{{- end }}

{{/* The longest a request may take, in seconds: the gateway's own default is ten minutes. */}}
{{- define "spillway.totalSeconds" -}}
{{- $total := dig "timeouts" "total" "10m" .Values.config -}}
{{- include "spillway.seconds" (dict "text" $total "key" "timeouts.total") -}}
{{- end }}

{{- define "spillway.drainSeconds" -}}
{{- $drain := .Values.config.drain_timeout -}}
{{- if $drain -}}
{{- include "spillway.seconds" (dict "text" $drain "key" "drain_timeout") -}}
{{- else -}}
{{- include "spillway.totalSeconds" . -}}
{{- end -}}
{{- end }}

{{- define "spillway.delay" -}}
{{- .Values.config.drain_delay | default "10s" -}}
{{- end }}

{{/* From SIGTERM to the last byte, and time to close: the longest stream ends before the pod does. */}}
{{- define "spillway.graceSeconds" -}}
{{- $delay := include "spillway.seconds" (dict "text" (include "spillway.delay" .) "key" "drain_delay") -}}
{{- add $delay (include "spillway.drainSeconds" .) 15 -}}
{{- end }}

{{/* The gateway's configuration: what is given, and for what is not, what the chart owns. */}}
{{- define "spillway.config" -}}
{{- $given := deepCopy .Values.config -}}
{{- /* YAML 1.1 reads a plain `off` as false; the gateway knows only the word. */ -}}
{{- if and (hasKey $given "access_log") (kindIs "bool" $given.access_log) (not $given.access_log) -}}
{{- $_ := set $given "access_log" "off" -}}
{{- end -}}
{{- $secrets := "/etc/spillway/secrets" -}}
{{- $admin := dict "listen" "0.0.0.0:9090" "token_file" (printf "%s/admin/token" $secrets) -}}
{{- $owned := dict "listen" "0.0.0.0:8080" "admin" $admin -}}
{{- $_ := set $owned "drain_delay" (include "spillway.delay" .) -}}
{{- $_ := set $owned "drain_timeout" (printf "%ss" (include "spillway.drainSeconds" .)) -}}
{{- if ne .Values.state.store "none" -}}
{{- $state := dict "fleet" (default (include "spillway.fullname" .) .Values.state.fleet) -}}
{{- if or (eq .Values.state.store "bundled") .Values.state.external.secretName -}}
{{- $_ := set $state "url_file" (printf "%s/state/url" $secrets) -}}
{{- end -}}
{{- $_ := set $owned "state" $state -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $tls := printf "%s/tls" $secrets -}}
{{- $_ := set $owned "tls" (dict "cert_file" (printf "%s/tls.crt" $tls) "key_file" (printf "%s/tls.key" $tls)) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $owned $given) -}}
{{- end }}

{{/* What a running gateway refuses to change; the list is that of gateway/config/fixed.py. */}}
{{- define "spillway.fixed" -}}
{{- $config := include "spillway.config" . | fromYaml -}}
{{- $fixed := pick $config "listen" "workers" "state" "access_log" "tracing" -}}
{{- $_ := set $fixed "admin" (pick $config.admin "listen") -}}
{{- $_ := set $fixed "tls" (not (empty $config.tls)) -}}
{{- $_ := set $fixed "clientCertificates" (not (empty (dig "client_ca_file" "" (default dict $config.tls)))) -}}
{{- $_ := set $fixed "keys" (not (empty $config.keys)) -}}
{{- toYaml $fixed -}}
{{- end }}

{{/* Namespaces whose EndpointSlices the gateway reads, as a YAML list. */}}
{{- define "spillway.discovered" -}}
{{- $found := dict -}}
{{- range .Values.config.clusters -}}
{{- with dig "discovery" "kubernetes" "" . -}}
{{- /* One with an api of its own is in another cluster, and brings its own token. */ -}}
{{- if not .api -}}{{- $_ := set $found (default $.Release.Namespace .namespace) true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- keys $found | sortAlpha | toYaml -}}
{{- end }}

{{/* Mistakes that no schema can show. */}}
{{- define "spillway.refuse" -}}
{{- $state := default dict .Values.config.state -}}
{{- $ownUrl := or $state.url $state.url_file -}}
{{- $external := .Values.state.external.secretName -}}
{{- $store := .Values.state.store -}}
{{- if not .Values.config.clusters -}}
{{- fail "config.clusters: at least one cluster is needed; see helm/examples" -}}
{{- end -}}
{{- if and (ne $store "external") (or $ownUrl $external) -}}
{{- fail (printf "state.store is %s, but a URL of a store is given: set state.store to external, or remove the URL" $store) -}}
{{- end -}}
{{- if and (eq $store "external") (not (or $ownUrl $external)) -}}
{{- fail "state.store is external: give state.external.secretName, or config.state.url" -}}
{{- end -}}
{{- if and $ownUrl $external -}}
{{- fail "state.external.secretName must not stand beside config.state.url or url_file: keep one of them" -}}
{{- end -}}
{{- if and (eq $store "none") (gt (int (default 1 .Values.config.workers)) 1) -}}
{{- fail "config.workers above 1 needs a store in a container: set state.store to bundled or external" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas must be at most maxReplicas" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.keda.prometheusAddress) -}}
{{- fail "autoscaling.kind is keda: give autoscaling.keda.prometheusAddress" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway that it belongs to" -}}
{{- end -}}
{{- end }}
