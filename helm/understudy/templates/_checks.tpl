{{/* What the schema cannot say, in sentences. */}}
{{- define "understudy.check" -}}
{{- if not (or .Values.sidecar.enabled .Values.shared.enabled) -}}
{{- fail "nothing to install: set sidecar.enabled or shared.enabled" -}}
{{- end -}}
{{- if and .Values.policy .Values.existingPolicyConfigMap -}}
{{- fail "policy and existingPolicyConfigMap exclude each other: remove one" -}}
{{- end -}}
{{- if not (or .Values.policy .Values.existingPolicyConfigMap) -}}
{{- fail "no policy: give one with --set-file policy=policy.yaml, or name a ConfigMap in existingPolicyConfigMap" -}}
{{- end -}}
{{- if and .Values.llmGateway.kind (not .Values.llmGateway.url) -}}
{{- fail "llmGateway.kind is set and llmGateway.url is not: give the gateway's URL" -}}
{{- end -}}
{{- if .Values.shared.enabled -}}
{{- if not .Values.shared.caSecretName -}}
{{- fail "shared.caSecretName is empty: name a Secret with tls.crt and tls.key of the CA that the agents trust" -}}
{{- end -}}
{{- if has .Values.shared.caSecretName .Values.secretNames -}}
{{- fail "shared.caSecretName is also in secretNames: keep the CA's key in a Secret of its own" -}}
{{- end -}}
{{- with .Values.shared.networkPolicy -}}
{{- if and .enabled (not .agentSelector) -}}
{{- fail "shared.networkPolicy.agentSelector is empty and would select every pod: give the labels of the agents' pods, or set shared.networkPolicy.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.sidecar.enabled -}}
{{- include "understudy.checkPodTemplate" . -}}
{{- end -}}
{{- end -}}

{{/* An agent that shares namespaces, volumes or Secrets with the proxy could read the real keys. */}}
{{- define "understudy.checkPodTemplate" -}}
{{- $spec := .Values.sidecar.podTemplate.spec | default dict -}}
{{- if not $spec.containers -}}
{{- fail "sidecar.podTemplate.spec.containers is empty: give the agent's pod template" -}}
{{- end -}}
{{- range $name := list "hostNetwork" "hostPID" "shareProcessNamespace" -}}
{{- if index $spec $name -}}
{{- fail (printf "sidecar.podTemplate.spec.%s lets the agent into the proxy or past it: remove it" $name) -}}
{{- end -}}
{{- end -}}
{{- range $volume := $spec.volumes -}}
{{- if hasPrefix "understudy-" $volume.name -}}
{{- fail (printf "sidecar.podTemplate.spec.volumes: %s is a name of this chart's: choose another" $volume.name) -}}
{{- end -}}
{{- if hasKey $volume "hostPath" -}}
{{- fail (printf "sidecar.podTemplate.spec.volumes: %s is a hostPath, through which the agent could reach the proxy's files: remove it" $volume.name) -}}
{{- end -}}
{{- end -}}
{{- $json := toJson $spec -}}
{{- range $secret := .Values.secretNames -}}
{{- $name := $secret | replace "." "\\." -}}
{{- $reference := printf `"secretName":"%s"|"(secretKeyRef|secretRef|secret)":\{("[a-zA-Z]+":("[^"]*"|\[[^\]]*\]|[^",{}]+),)*"name":"%s"` $name $name -}}
{{- if regexMatch $reference $json -}}
{{- fail (printf "sidecar.podTemplate gives the agent the Secret %s, which holds the real keys: give it placeholders instead" $secret) -}}
{{- end -}}
{{- end -}}
{{- $ours := dict -}}
{{- range $entry := include "understudy.agentEnvironment" . | fromYamlArray -}}
{{- $_ := set $ours $entry.name true -}}
{{- end -}}
{{- range $container := concat ($spec.initContainers | default list) $spec.containers -}}
{{- if eq $container.name "understudy" -}}
{{- fail "sidecar.podTemplate: a container is called understudy, as the proxy is: choose another name" -}}
{{- end -}}
{{- if dig "securityContext" "privileged" false $container -}}
{{- fail (printf "sidecar.podTemplate: container %s is privileged and could read the proxy's memory: remove it" $container.name) -}}
{{- end -}}
{{- range $mount := $container.volumeMounts -}}
{{- if hasPrefix "understudy-" $mount.name -}}
{{- fail (printf "sidecar.podTemplate: container %s mounts %s: the chart mounts what an agent may see" $container.name $mount.name) -}}
{{- end -}}
{{- end -}}
{{- range $entry := $container.env -}}
{{- if hasKey $ours $entry.name -}}
{{- fail (printf "sidecar.podTemplate: container %s sets %s, which this chart sets: remove it" $container.name $entry.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
