#!/bin/sh
# Prints the rules of this folder as a PrometheusRule for the Prometheus operator. `make rules` writes it to
# deploy/kubernetes/components/monitoring/prometheus-rule.yaml, and a test compares the two.
set -eu
cat <<'HEAD'
# Made by `make rules` from deploy/prometheus/shopper-gateway.rules.yaml: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: shopper-gateway
  labels:
    app.kubernetes.io/name: shopper-gateway
spec:
HEAD
sed -e '/^#/d' -e '/./s/^/  /' "$(dirname "$0")/shopper-gateway.rules.yaml"
