#!/bin/sh
# Prints the rules of this folder as the object that the Prometheus operator reads. `make rules` keeps it in
# deploy/kubernetes/components/monitoring/prometheus-rule.yaml, and a test compares.
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
