{{/* A release called "understudy" gives "understudy", any other "<release>-understudy". */}}
{{- define "understudy.fullname" -}}
{{- if contains "understudy" .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-understudy" (.Release.Name | trunc 37 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "understudy.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "understudy.selector" . }}
{{- end -}}

{{- define "understudy.selector" -}}
app.kubernetes.io/name: understudy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "understudy.policyConfigMap" -}}
{{- .Values.existingPolicyConfigMap | default (printf "%s-policy" (include "understudy.fullname" .)) -}}
{{- end -}}

{{/* The pods are replaced when the policy changes; an own ConfigMap is reloaded in place. */}}
{{- define "understudy.policyChecksum" -}}
{{- if not .Values.existingPolicyConfigMap -}}
checksum/policy: {{ .Values.policy | sha256sum }}
{{- end -}}
{{- end -}}
