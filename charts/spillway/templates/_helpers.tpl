{{- define "spillway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters, so that the longest suffix of ours still fits into 63. */}}
{{- define "spillway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "spillway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "spillway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "spillway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "spillway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "spillway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "spillway.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "spillway.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/*
spillway.value turns a value of settings into the text of a variable. Whatever
is no string becomes JSON: YAML's numbers arrive as floats, and 1000000 would
else be written as 1e+06. "$(" is doubled, since Kubernetes would read
"orders$(x)" as a reference to another variable.
*/}}
{{- define "spillway.value" -}}
{{- if kindIs "string" . }}{{ . | replace "$(" "$$(" }}{{ else }}{{ toJson . | replace "$(" "$$(" }}{{ end }}
{{- end }}

{{/*
spillway.isSet is "true" when the variable .name reaches the program from .root:
in settings with a value, in secretSettings, in secretFiles, or in extraEnv with a value or a
source.
*/}}
{{- define "spillway.isSet" -}}
{{- $set := false }}
{{- $value := get (.root.Values.settings | default dict) .name }}
{{- if and (not (kindIs "invalid" $value)) (ne (toString $value | trim) "") }}{{ $set = true }}{{ end }}
{{- if get (.root.Values.secretSettings | default dict) .name }}{{ $set = true }}{{ end }}
{{- if get (.root.Values.secretFiles | default dict) .name }}{{ $set = true }}{{ end }}
{{- $name := .name }}
{{- range .root.Values.extraEnv }}
{{- if and (eq .name $name) (or .valueFrom (.value | default "" | toString | trim)) }}{{ $set = true }}{{ end }}
{{- end }}
{{- $set }}
{{- end }}

{{/*
spillway.authenticates is "true" when clients must show who they are. These are
the variables that each are enough by themselves; an audience is only a
condition on a token whose signature something else must prove.
*/}}
{{- define "spillway.authenticates" -}}
{{- $found := false }}
{{- range list "AUTH_URL" "JWT_ISSUER" "JWT_JWKS_URL" "JWT_KEY" "JWT_KEY_FILE" }}
{{- if eq (include "spillway.isSet" (dict "root" $ "name" .)) "true" }}{{ $found = true }}{{ end }}
{{- end }}
{{- $found }}
{{- end }}

{{/* spillway.fileVariable is the variable that names the file of a secret. */}}
{{- define "spillway.fileVariable" -}}
{{- trimSuffix "_FILE" . }}_FILE
{{- end }}

{{/* spillway.guard refuses to open .way to the world while anyone could read. */}}
{{- define "spillway.guard" -}}
{{- if not (or .root.Values.allowAnonymous (eq (include "spillway.authenticates" .root) "true")) }}
{{- fail (printf "%s would let everyone who reaches it read every exposed topic: set settings.AUTH_URL, settings.JWT_ISSUER or secretFiles.JWT_KEY, or allowAnonymous=true if that is what you want" .way) }}
{{- end }}
{{- end }}

{{- define "spillway.gracePeriodSeconds" -}}
{{- $needed := add (int .Values.drain.delaySeconds) (int .Values.drain.timeoutSeconds) 10 }}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds }}
{{- $needed }}
{{- else }}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $needed }}
{{- fail (printf "terminationGracePeriodSeconds=%d: must be at least drain.delaySeconds + drain.timeoutSeconds + 10 = %d, or leave it out" (int64 .Values.terminationGracePeriodSeconds) $needed) }}
{{- end }}
{{- int64 .Values.terminationGracePeriodSeconds }}
{{- end }}
{{- end }}

{{/* spillway.validate refuses what could not work, before anything is applied. */}}
{{- define "spillway.validate" -}}
{{- $v := .Values }}
{{- $settings := $v.settings | default dict }}
{{- $secretSettings := $v.secretSettings | default dict }}
{{- $secretFiles := $v.secretFiles | default dict }}
{{- $kafka := $v.kafka.config | default dict }}
{{- if not (or $v.kafka.existingSecret.name (get $kafka "bootstrap.servers") (get $kafka "metadata.broker.list")) }}
{{- fail "kafka.config has no bootstrap.servers: set it, or kafka.existingSecret.name" }}
{{- end }}
{{- $owned := dict
  "HTTP_ADDR" "the chart's ports depend on it; leave it out"
  "OPS_ADDR" "the chart's ports depend on it; leave it out"
  "DRAIN_DELAY" "set drain.delaySeconds instead"
  "DRAIN_TIMEOUT" "set drain.timeoutSeconds instead"
  "KAFKA_CONSUMER_CONFIG" "set kafka.config instead"
  "KAFKA_CONSUMER_CONFIG_FILE" "set kafka.existingSecret instead" }}
{{- range $name, $_ := $settings }}
{{- with get $owned $name }}{{ fail (printf "settings.%s: %s" $name .) }}{{ end }}
{{- if or (hasSuffix "_KEY" $name) (has $name (list "SCHEMA_REGISTRY_AUTH" "CONTROL_REALMS")) }}
{{- fail (printf "settings.%s: a secret would stand in the Deployment for all to read; use secretSettings.%s" $name $name) }}
{{- end }}
{{- if hasKey $secretSettings $name }}
{{- fail (printf "settings.%s and secretSettings.%s: keep one" $name $name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := $secretSettings }}
{{- with get $owned $name }}{{ fail (printf "secretSettings.%s: %s" $name .) }}{{ end }}
{{- end }}
{{- range $name, $_ := $secretFiles }}
{{- with get $owned $name }}{{ fail (printf "secretFiles.%s: %s" $name .) }}{{ end }}
{{- $variable := include "spillway.fileVariable" $name }}
{{- range $other := list $name $variable }}
{{- if or (hasKey $settings $other) (hasKey $secretSettings $other) }}
{{- fail (printf "secretFiles.%s and %s of settings or secretSettings: keep one" $name $other) }}
{{- end }}
{{- end }}
{{- if and $v.tls.secretName (has $variable (list "TLS_CERT_FILE" "TLS_KEY_FILE")) }}
{{- fail (printf "secretFiles.%s: tls.secretName sets it; keep one" $name) }}
{{- end }}
{{- end }}
{{- if and $v.tls.secretName (or (hasKey $settings "TLS_CERT_FILE") (hasKey $settings "TLS_KEY_FILE")) }}
{{- fail "tls.secretName and TLS_CERT_FILE or TLS_KEY_FILE of settings: keep one" }}
{{- end }}
{{- range $v.extraEnv }}
{{- if or (hasKey $owned .name) (hasKey $settings .name) (hasKey $secretSettings .name) (hasKey $secretFiles .name) (hasKey $secretFiles (trimSuffix "_FILE" .name)) }}
{{- fail (printf "extraEnv: %s is set elsewhere too; keep one" .name) }}
{{- end }}
{{- end }}
{{- end }}
