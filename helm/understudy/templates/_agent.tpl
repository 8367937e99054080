{{/* What a sandbox's programs read: the list that `understudy env` prints. */}}
{{- define "understudy.agentEnvironment" -}}
- {name: HTTP_PROXY, value: "http://127.0.0.1:9080"}
- {name: http_proxy, value: "http://127.0.0.1:9080"}
- {name: HTTPS_PROXY, value: "http://127.0.0.1:9080"}
- {name: https_proxy, value: "http://127.0.0.1:9080"}
- {name: ALL_PROXY, value: "http://127.0.0.1:9080"}
- {name: all_proxy, value: "http://127.0.0.1:9080"}
- {name: NO_PROXY, value: "127.0.0.1,localhost,::1"}
- {name: no_proxy, value: "127.0.0.1,localhost,::1"}
- {name: grpc_proxy, value: "http://127.0.0.1:9080"}
- {name: NODE_USE_ENV_PROXY, value: "1"}
- {name: SSL_CERT_FILE, value: "/var/lib/understudy/public/bundle.pem"}
- {name: REQUESTS_CA_BUNDLE, value: "/var/lib/understudy/public/bundle.pem"}
- {name: CURL_CA_BUNDLE, value: "/var/lib/understudy/public/bundle.pem"}
- {name: GIT_SSL_CAINFO, value: "/var/lib/understudy/public/bundle.pem"}
- {name: PIP_CERT, value: "/var/lib/understudy/public/bundle.pem"}
- {name: AWS_CA_BUNDLE, value: "/var/lib/understudy/public/bundle.pem"}
- {name: CARGO_HTTP_CAINFO, value: "/var/lib/understudy/public/bundle.pem"}
- {name: npm_config_cafile, value: "/var/lib/understudy/public/bundle.pem"}
- {name: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, value: "/var/lib/understudy/public/bundle.pem"}
- {name: BUNDLE_SSL_CA_CERT, value: "/var/lib/understudy/public/bundle.pem"}
- {name: CODEX_CA_CERTIFICATE, value: "/var/lib/understudy/public/bundle.pem"}
- {name: NODE_EXTRA_CA_CERTS, value: "/var/lib/understudy/public/ca.crt"}
- {name: DENO_CERT, value: "/var/lib/understudy/public/ca.crt"}
{{- range $name, $placeholder := .Values.sidecar.placeholders }}
- name: {{ $name }}
  value: {{ $placeholder | quote }}
{{- end }}
{{- end }}

{{/* One of the agent's containers, with environment and CA. Takes a dict: root, container. */}}
{{- define "understudy.agentContainer" -}}
{{- $environment := include "understudy.agentEnvironment" .root | fromYamlArray -}}
{{- $mount := dict "name" "understudy-public" "mountPath" "/var/lib/understudy/public" "readOnly" true -}}
{{- $container := deepCopy .container -}}
{{- $_ := set $container "env" (concat $environment ($container.env | default list)) -}}
{{- $_ := set $container "volumeMounts" (append ($container.volumeMounts | default list) $mount) -}}
{{- toYaml $container -}}
{{- end }}

{{/* The agent's pod template with the proxy in front of everything else that it starts. */}}
{{- define "understudy.agentPodTemplate" -}}
{{- $root := . -}}
{{- $form := dict "root" . "form" "sidecar" -}}
{{- $template := .Values.sidecar.podTemplate -}}
{{- $metadata := $template.metadata | default dict -}}
metadata:
  labels:
    {{- merge (include "understudy.agentSelector" . | fromYaml) ($metadata.labels | default dict) | toYaml | nindent 4 }}
  {{- with merge (include "understudy.policyChecksum" . | fromYaml) ($metadata.annotations | default dict) }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- $restart := ternary "Never" "Always" (eq .Values.sidecar.kind "Job") }}
  {{- $defaults := dict "automountServiceAccountToken" false "enableServiceLinks" false "restartPolicy" $restart }}
  {{- $spec := omit $template.spec "containers" "initContainers" "volumes" }}
  {{- range $name, $value := $defaults }}
  {{- if not (hasKey $spec $name) }}
  {{- $_ := set $spec $name $value }}
  {{- end }}
  {{- end }}
  {{- toYaml $spec | nindent 2 }}
  initContainers:
    # Started before the agent's containers and stopped after them.
    - {{- include "understudy.proxy" $form | nindent 6 }}
    {{- range $template.spec.initContainers }}
    - {{- include "understudy.agentContainer" (dict "root" $root "container" .) | nindent 6 }}
    {{- end }}
  containers:
    {{- range $template.spec.containers }}
    - {{- include "understudy.agentContainer" (dict "root" $root "container" .) | nindent 6 }}
    {{- end }}
  volumes:
    {{- include "understudy.volumes" $form | nindent 4 }}
    {{- with $template.spec.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "understudy.agentSelector" -}}
app.kubernetes.io/name: agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
