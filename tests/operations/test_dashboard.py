"""The dashboard and the rules against a real Prometheus that scrapes a real gateway under load.

Each query of deploy/grafana/dashboard.json, variables and annotations included, must return numbers. So a
renamed metric, or a label that is never set, fails this test.
"""

import json
import math
import pathlib
import re
import shutil
import time
import unittest
import urllib.parse

import yaml

import running
import shop

DASHBOARD = json.loads((running.DEPLOY / "grafana" / "dashboard.json").read_text())
RULES = (running.DEPLOY / "prometheus" / "shopper-gateway.rules.yaml").read_text()
# Metrics that the rules name and this version does not have. A metric leaves this list when it is added.
NOT_SAID_YET = set()
VARIABLES = {
    "$job": "shopper-gateway", "$instance": ".*", "$tenant": ".*", "$__rate_interval": "15s", "$__range": "1m",
}


def queries():
    """Yields (title of the panel, expression) of every query."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        # A marker of changes usually returns nothing, so the test checks that its metric exists.
        yield annotation["name"], re.sub(r" > 0$", "", annotation["expr"])


def filled_in(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


class Dashboard(unittest.TestCase):
    """One set-up for all tests: simulator, gateway with TLS, Prometheus, and constant load."""

    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(running.folder())
        cls.folder = pathlib.Path(folder)
        certificate, private_key = running.certificate(cls.folder)
        simulator = cls.enterClassContext(running.simulator())
        environment = {
            "SHOPPER_GATEWAY__SERVER__LISTEN": "127.0.0.1:0",
            "SHOPPER_GATEWAY__SERVER__TLS__CERTIFICATE": certificate,
            "SHOPPER_GATEWAY__SERVER__TLS__PRIVATE_KEY": private_key,
            "SHOPPER_GATEWAY__ADMIN__LISTEN": "127.0.0.1:0",
            "SHOPPER_GATEWAY__TENANTS__0__API": simulator,
            "SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL": simulator,
        }
        gateway = cls.enterClassContext(running.Program(
            running.BINARIES / "shopper-gateway", "serve", "-c", running.ROOT / "config" / "demo.toml",
            env={name: str(value) for name, value in environment.items()}))
        port = gateway.said(r"listening[^\n]*address=127\.0\.0\.1:(\d+)").group(1)
        cls.admin = "127.0.0.1:" + gateway.said(r"listening for operators[^\n]*address=127\.0\.0\.1:(\d+)").group(1)
        plain = running.Client()
        running.eventually("the gateway is ready", lambda: plain.send("GET", f"http://{cls.admin}/readyz")[0] == 200)
        caller = running.Client(certificate)
        cls.shop = cls.enterClassContext(shop.Shop(caller, f"https://localhost:{port}", simulator))
        cls.plain = plain
        cls.prometheus = cls.enterClassContext(prometheus(cls.folder, cls.admin))

    def ask(self, path, **parameters):
        answer = self.plain.json(f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        self.assertEqual(answer["status"], "success")
        return answer["data"]

    def numbers(self, expression):
        """The number of samples with a value that a query returns now."""
        samples = self.ask("query", query=expression)["result"]
        return sum(1 for sample in samples if not math.isnan(float(sample["value"][1])))

    def test_every_query_returns_numbers(self):
        waiting = dict.fromkeys((title, filled_in(expression)) for title, expression in queries())
        self.assertGreater(len(waiting), 40)
        end = time.monotonic() + running.PATIENCE
        while waiting and time.monotonic() < end:
            self.assertIsNone(self.shop.failure)
            waiting = {query: None for query in waiting if not self.numbers(query[1])}
            time.sleep(1)
        self.assertFalse(waiting, "these queries return nothing:\n" + "\n".join(f"{t}: {e}" for t, e in waiting))

    def test_every_variable_has_values(self):
        asked = {}
        for variable in DASHBOARD["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                asked[variable["name"]] = running.eventually(
                    f"{variable['name']} has values",
                    lambda m=metric, l=label: self.ask(f"label/{l}/values", **{"match[]": filled_in(m)}))
        self.assertEqual(asked["job"], ["shopper-gateway"])
        self.assertIn(running.ORGANIZATION, asked["tenant"])

    def test_every_kind_of_token_is_counted(self):
        metric = "shopper_gateway_token_requests_total"
        for kind in ["session", "system", "on_behalf"]:
            running.eventually(f"{kind} is counted", lambda k=kind: self.numbers(f'{metric}{{kind="{k}"}}'))

    def test_rules_are_healthy_and_name_existing_metrics(self):
        groups = self.ask("rules")["groups"]
        self.assertEqual(len(groups), RULES.count("- name: "))
        def evaluated():
            rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
            return all(rule["health"] == "ok" for rule in rules)
        running.eventually("every rule was evaluated", evaluated)
        # The rules themselves record the names with a colon.
        named = set(re.findall(r"(?<!:)\bshopper_gateway_[a-z0-9_]+", re.sub(r"#.*", "", RULES)))
        known = set(self.ask("label/__name__/values"))
        self.assertGreater(len(named), 10)
        self.assertEqual(named - known, NOT_SAID_YET)

    def test_every_metric_has_a_panel(self):
        text = self.plain.send("GET", f"http://{self.admin}/metrics")[2]
        families = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        self.assertGreater(len(families), 20)
        shown = " ".join(expression for _, expression in queries())
        missing = {family for family in families if not re.search(rf"\b{family}(_bucket|_count)?\b", shown)}
        self.assertEqual(missing, set())

    def test_metrics_pass_promtool_lint(self):
        text = self.plain.send("GET", f"http://{self.admin}/metrics")[2]
        running.tool("promtool", "check", "metrics", input=text)


class prometheus:
    """Prometheus as deploy/prometheus/prometheus.yaml configures it, but quicker and for this gateway only."""

    def __init__(self, folder, target):
        self.folder, self.target = folder, target

    def __enter__(self):
        config = yaml.safe_load((running.DEPLOY / "prometheus" / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "shopper-gateway"]
        job["static_configs"] = [{"targets": [self.target]}]
        config["scrape_configs"] = [job]
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        # An interval of 30 s would make the tests slow.
        (self.folder / "shopper-gateway.rules.yaml").write_text(re.sub(r"interval: 30s", "interval: 1s", RULES))
        url = f"http://127.0.0.1:{running.free_port()}"
        self.program = running.Program(
            shutil.which("prometheus"), f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={url.removeprefix('http://')}")
        self.program.said("Server is ready")
        return url

    def __exit__(self, *_):
        self.program.end()


if __name__ == "__main__":
    unittest.main()
