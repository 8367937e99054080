{{/* The proxy's container. Takes a dict: root (the chart's context), form ("sidecar" or "shared"). */}}
{{- define "understudy.proxy" -}}
{{- $values := .root.Values -}}
{{- $shared := eq .form "shared" -}}
name: understudy
image: {{ $values.image.repository }}{{ if $values.image.digest }}@{{ $values.image.digest }}{{ else }}:{{ $values.image.tag | default .root.Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ $values.image.pullPolicy }}
{{- if not $shared }}
restartPolicy: Always
{{- end }}
args:
  - run
  - --policy=/etc/understudy/policy
  - --listen={{ ternary "0.0.0.0" "127.0.0.1" $shared }}:9080
  # Not loopback: the kubelet's probes come to the pod's address.
  - --admin=0.0.0.0:9081
  - --state-dir=/var/lib/understudy
  - --audit=-
  - --workers={{ $values.workers }}
  {{- with $values.adminTokenFile }}
  - --admin-token-file={{ . }}
  {{- end }}
  {{- if $shared }}
  - --ca-cert=/run/secrets/understudy-ca/tls.crt
  - --ca-key=/run/secrets/understudy-ca/tls.key
  {{- end }}
{{- if $values.llmGateway.url }}
env:
  - name: UNDERSTUDY_LLM_GATEWAY_URL
    value: {{ $values.llmGateway.url | quote }}
  - name: UNDERSTUDY_LLM_GATEWAY_KIND
    value: {{ $values.llmGateway.kind | default "generic" | quote }}
{{- end }}
ports:
  {{- if $shared }}
  - {name: proxy, containerPort: 9080}
  {{- end }}
  - {name: admin, containerPort: 9081}
startupProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  runAsUser: 65532
  runAsGroup: 65532
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: understudy-policy, mountPath: /etc/understudy/policy, readOnly: true}
  {{- if $values.secretNames }}
  - {name: understudy-secrets, mountPath: /run/secrets/understudy, readOnly: true}
  {{- end }}
  - {name: understudy-state, mountPath: /var/lib/understudy}
  {{- if $shared }}
  - {name: understudy-ca, mountPath: /run/secrets/understudy-ca, readOnly: true}
  {{- else }}
  - {name: understudy-public, mountPath: /var/lib/understudy/public}
  {{- end }}
{{- end }}

{{/* The volumes behind those mounts. Takes the same dict. */}}
{{- define "understudy.volumes" -}}
{{- $shared := eq .form "shared" -}}
- name: understudy-policy
  configMap:
    name: {{ include "understudy.policyConfigMap" .root }}
{{- if .root.Values.secretNames }}
- name: understudy-secrets
  projected:
    {{- if $shared }}
    defaultMode: 0440
    {{- end }}
    sources:
      {{- range .root.Values.secretNames }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- end }}
- name: understudy-state
  emptyDir: {sizeLimit: 16Mi}
{{- if $shared }}
- name: understudy-ca
  secret:
    secretName: {{ .root.Values.shared.caSecretName }}
    defaultMode: 0440
{{- else }}
- name: understudy-public
  emptyDir: {sizeLimit: 16Mi}
{{- end }}
{{- end }}
