"""The manifests of deploy/kubernetes, rendered by kustomize: valid for Kubernetes, and consistent with the gateway.

Schemas check the form. These tests check that the parts fit together: selectors, ports, secrets, times, and that the gateway accepts
its configuration.
"""

import functools
import pathlib
import re
import unittest

import cloudcoil.models.prometheus_operator.v1 as operator
import kubernetes_validate
import yaml

import running

KUBERNETES = running.DEPLOY / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
# The oldest version with `sleep` in preStop, and the newest with published schemas.
VERSIONS = ["1.30.0", "1.37.0"]
SECRETS = "/run/secrets/shopper-gateway"


def render(overlay):
    text = running.tool("kubectl", "kustomize", KUBERNETES / "overlays" / overlay)
    return [document for document in yaml.safe_load_all(text) if document]


def only(documents, kind, name="shopper-gateway"):
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def pods(documents):
    """The pod template of every deployment."""
    return [d["spec"]["template"] for d in documents if d["kind"] == "Deployment"]


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def each_overlay(test):
    """Runs a test for every overlay, with its rendered objects."""
    @functools.wraps(test)
    def every(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                test(self, render(overlay))
    return every


class Manifests(unittest.TestCase):
    """Each overlay."""

    @each_overlay
    def test_manifests_match_kubernetes_schemas(self, documents):
        for document in documents:
            if document["apiVersion"] == "monitoring.coreos.com/v1":
                # The type drops unknown fields, so the output must equal the input.
                taken = getattr(operator, document["kind"]).model_validate(document)
                self.assertEqual(taken.model_dump(mode="json", by_alias=True, exclude_unset=True), document)
            else:
                for version in VERSIONS:
                    kubernetes_validate.validate(document, version, strict=True)

    @each_overlay
    def test_pods_are_restricted(self, documents):
        """Kubernetes' Pod Security Standard "restricted", which both namespaces enforce, and more."""
        (namespace,) = [d for d in documents if d["kind"] == "Namespace"]
        self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
        for pod in pods(documents):
            spec = pod["spec"]
            self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertIs(spec["automountServiceAccountToken"], False)
            for container in spec["containers"]:
                self.assertEqual(container["securityContext"], {
                    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]}})
                self.assertIn("memory", container["resources"]["limits"])

    @each_overlay
    def test_selectors_match_pods_and_ports(self, documents):
        labels = [pod["metadata"]["labels"] for pod in pods(documents)]
        ports = {port["name"]: port["containerPort"] for pod in pods(documents)
                 for container in pod["spec"]["containers"] for port in container["ports"]}
        for document in documents:
            spec = document.get("spec", {})
            selector = {
                "Service": lambda s: s["selector"], "PodDisruptionBudget": lambda s: s["selector"]["matchLabels"],
                "Deployment": lambda s: s["selector"]["matchLabels"],
                "NetworkPolicy": lambda s: s["podSelector"]["matchLabels"],
            }.get(document["kind"], lambda _: None)(spec)
            if selector:
                self.assertTrue(any(selector.items() <= known.items() for known in labels), selector)
            if document["kind"] == "Service":
                self.assertTrue({port["targetPort"] for port in spec["ports"]} <= ports.keys())
            if document["kind"] == "ServiceMonitor":
                wanted = spec["selector"]["matchLabels"].items()
                (service,) = [d for d in documents if d["kind"] == "Service"
                              and wanted <= d["metadata"]["labels"].items()]
                self.assertEqual(service["metadata"]["labels"][spec["jobLabel"]], "shopper-gateway")
                self.assertEqual({endpoint["port"] for endpoint in spec["endpoints"]},
                                 {port["name"] for port in service["spec"]["ports"]})

    @each_overlay
    def test_gateway_accepts_overlay_configuration(self, documents):
        pod = only(documents, "Deployment")["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (config,) = [d for d in documents if d["kind"] == "ConfigMap"]
        self.assertEqual(volumes["config"]["configMap"]["name"], config["metadata"]["name"])
        # The gateway rejects files that other users can read. The pod's group reads them.
        self.assertEqual(volumes["secrets"]["secret"]["defaultMode"], 0o440)
        text = config["data"]["gateway.toml"]
        for secret in (d for d in documents if d["kind"] == "Secret"):
            self.assertEqual(volumes["secrets"]["secret"]["secretName"], secret["metadata"]["name"])
            self.assertEqual(set(secret["data"]), set(re.findall(rf"{SECRETS}/([\w-]+)", text)))
        with running.folder() as folder:
            self.check(pathlib.Path(folder), text)

    def check(self, folder, text):
        for name in set(re.findall(rf"{SECRETS}/([\w-]+)", text)):
            secret = folder / name
            secret.write_text({"store-url": "redis://127.0.0.1:6379/0", "store-key": "A" * 43 + "="}.get(name, "secret"))
            secret.chmod(0o440)
        (folder / "gateway.toml").write_text(text.replace(SECRETS, str(folder)))
        running.tool(running.BINARIES / "shopper-gateway", "check", "-c", folder / "gateway.toml")

    @each_overlay
    def test_termination_grace_period_covers_drain(self, documents):
        pod = only(documents, "Deployment")["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        (config,) = [d for d in documents if d["kind"] == "ConfigMap"]
        drain = seconds(re.search(r'^drain = "(\w+)"$', config["data"]["gateway.toml"], re.M).group(1))
        self.assertLess(sleep + drain, pod["terminationGracePeriodSeconds"])

    @each_overlay
    def test_images_have_fixed_tags(self, documents):
        """Without a tag, a node queries a registry each time, even for an image that was loaded into the cluster."""
        for pod in pods(documents):
            for container in pod["spec"]["containers"]:
                self.assertRegex(container["image"], r":(?!latest$)[\w.-]+$")
                self.assertIn(container.get("imagePullPolicy", "IfNotPresent"), {"IfNotPresent", "Never"})

    @each_overlay
    def test_trusted_proxies_require_restricted_ingress(self, documents):
        """With trusted proxies, only these proxies reach the public port. Without, every client does."""
        (config,) = [d for d in documents if d["kind"] == "ConfigMap"]
        (public,) = [rule for rule in only(documents, "NetworkPolicy")["spec"]["ingress"] if rule["ports"] == [{"port": "http"}]]
        believes = re.search(r"^trusted_proxies", config["data"]["gateway.toml"], re.M) is not None
        self.assertEqual("from" in public, believes)

    @each_overlay
    def test_network_policy_allows_dns_to_any_resolver(self, documents):
        anywhere = [port for rule in only(documents, "NetworkPolicy")["spec"]["egress"] if "to" not in rule for port in rule["ports"]]
        for port in [53, 5353]:
            for protocol in ["UDP", "TCP"]:
                self.assertIn({"port": port, "protocol": protocol}, anywhere)

    def test_production_overlay_has_required_resources_and_no_secret(self):
        documents = render("production")
        kinds = {document["kind"] for document in documents}
        self.assertLessEqual({"PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor",
                              "PrometheusRule"}, kinds)
        self.assertNotIn("Secret", kinds, "a secret in the repository")
        scaler = only(documents, "HorizontalPodAutoscaler")["spec"]
        self.assertGreater(scaler["minReplicas"], 1)
        self.assertNotIn("replicas", only(documents, "Deployment")["spec"], "the autoscaler's")
        for kind in ["ServiceMonitor", "PrometheusRule"]:
            self.assertIn("release", only(documents, kind)["metadata"]["labels"], "what kube-prometheus-stack selects by")

    def test_prometheus_rule_matches_rules_file(self):
        made = running.tool(running.DEPLOY / "prometheus" / "prometheus-rule.sh")
        kept = (KUBERNETES / "components" / "monitoring" / "prometheus-rule.yaml").read_text()
        self.assertEqual(made, kept, "run `make rules`")
        rules = yaml.safe_load((running.DEPLOY / "prometheus" / "shopper-gateway.rules.yaml").read_text())
        self.assertEqual(only(render("production"), "PrometheusRule")["spec"], rules)

    @each_overlay
    def test_resource_names_are_unique(self, documents):
        names = [(document["kind"], document["metadata"]["name"]) for document in documents]
        self.assertEqual(len(names), len(set(names)))


if __name__ == "__main__":
    unittest.main()
