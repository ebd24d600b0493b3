"""Dockerfile and compose file, as far as a test without container engine and registry can check them.

Their own tools lint and parse them. The tests also check that the build context has every file that the build reads, that the image
has the libraries that the binary needs, and that the parts of the compose file fit together.
"""

import json
import re
import unittest

import yaml

import running

DOCKERFILE = running.DEPLOY / "Dockerfile"
COMPOSE = running.DEPLOY / "compose.yaml"
# The shared libraries of gcr.io/distroless/cc-debian12 that a Rust program may need.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


class Images(unittest.TestCase):
    """The images of deploy/Dockerfile."""

    def test_dockerfile_passes_linter(self):
        running.tool("hadolint", "--failure-threshold", "style", DOCKERFILE)

    def test_image_compiler_matches_rust_toolchain(self):
        channel = re.search(r'^channel = "(.+)"$', (running.ROOT / "rust-toolchain.toml").read_text(), re.M).group(1)
        self.assertIn(f"ARG RUST={channel}\n", DOCKERFILE.read_text())

    def test_build_context_has_all_files_that_build_reads(self):
        lines = (running.ROOT / ".dockerignore").read_text().split("\n")
        self.assertIn("*", lines)
        kept = [running.ROOT / line[1:] for line in lines if line.startswith("!")]
        read = {running.ROOT / "Cargo.toml", running.ROOT / "Cargo.lock"}
        for binary in ["shopper-gateway", "salesforce-simulator"]:
            # Cargo's list of the files that the build read.
            text = (running.BINARIES / f"{binary}.d").read_text().split(": ", 1)[1]
            read |= {running.ROOT / path for path in text.split()}
        # Cargo requires these files, because the manifest names them.
        benches = json.loads(running.tool("cargo", "metadata", "--no-deps", "--format-version=1", cwd=running.ROOT))
        read |= {running.ROOT / target["src_path"] for package in benches["packages"] for target in package["targets"]
                 if target["kind"] == ["bench"]}
        self.assertGreater(len(read), 80)
        missing = [path for path in read if not any(path == keep or keep in path.parents for keep in kept)]
        self.assertEqual(missing, [])

    def test_base_image_has_needed_libraries(self):
        for binary in ["shopper-gateway", "salesforce-simulator"]:
            needed = set(re.findall(r"NEEDED.*\[(.+)\]", running.tool("readelf", "-d", running.BINARIES / binary)))
            self.assertLessEqual(needed, LIBRARIES)


class Compose(unittest.TestCase):
    """The services of deploy/compose.yaml."""

    def setUp(self):
        # The tool merges and checks the file, and resolves the anchors.
        self.services = yaml.safe_load(running.tool("docker-compose", "-f", COMPOSE, "config"))["services"]

    def test_all_services_are_defined_and_listen_on_loopback_only(self):
        self.assertEqual(set(self.services), {"gateway", "simulator", "redis", "prometheus", "grafana"})
        for name, service in self.services.items():
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            for port in service.get("ports", []):
                self.assertTrue(str(port).startswith("127.0.0.1:"), f"{name}: {port}")

    def test_services_wait_for_healthy_dependencies(self):
        """Only for images with a program that can query health: those of the gateway and the simulator have none."""
        self.assertEqual({name for name, service in self.services.items() if "healthcheck" in service}, {"redis", "prometheus", "grafana"})
        needs = {name: service.get("depends_on", {}) for name, service in self.services.items()}
        self.assertEqual({name: set(others) for name, others in needs.items() if others}, {
            "gateway": {"simulator", "redis"}, "prometheus": {"gateway"}, "grafana": {"prometheus"}})
        for others in needs.values():
            for other, how in others.items():
                well = "service_healthy" if "healthcheck" in self.services[other] else "service_started"
                self.assertEqual(how["condition"], well, other)

    def test_gateway_image_gets_commit(self):
        self.assertIn("\nARG COMMIT=", DOCKERFILE.read_text())
        self.assertEqual(set(self.services["gateway"]["build"]["args"]), {"COMMIT"})

    def test_mounted_files_exist(self):
        sources = re.findall(r"- (\./[^:]+):", COMPOSE.read_text())
        self.assertGreater(len(sources), 3)
        for source in sources:
            self.assertTrue((running.DEPLOY / source).exists(), source)

    def test_gateway_accepts_compose_configuration(self):
        config = running.DEPLOY / "compose" / "gateway.toml"
        running.tool(running.BINARIES / "shopper-gateway", "check", "-c", config,
                     env=self.services["gateway"]["environment"])

    def test_services_are_configured_with_each_others_addresses(self):
        config = (running.DEPLOY / "compose" / "gateway.toml").read_text()
        scrape = yaml.safe_load((running.DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"][0]
        grafana = running.DEPLOY / "grafana" / "provisioning"
        source = yaml.safe_load((grafana / "datasources" / "prometheus.yaml").read_text())["datasources"][0]["url"]
        provider = yaml.safe_load((grafana / "dashboards" / "files.yaml").read_text())["providers"][0]
        addresses = re.findall(r"//([\w-]+:\d+)", config) + scrape["static_configs"][0]["targets"] + [source[7:]]
        own = {"simulator:8081", "redis:6379", "gateway:9090", "prometheus:9090"}
        self.assertEqual({address for address in addresses if not address.startswith("localhost")}, own)
        self.assertIn(f"{provider['options']['path']}/dashboard.json", COMPOSE.read_text())


if __name__ == "__main__":
    unittest.main()
