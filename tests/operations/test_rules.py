"""The rules of deploy/prometheus, checked by promtool, and the runbooks of their alerts."""

import datetime
import re
import unittest

import yaml

import running

FOLDER = running.DEPLOY / "prometheus"
RULES = FOLDER / "shopper-gateway.rules.yaml"
TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule
}


class Rules(unittest.TestCase):
    """When alerts fire, and their annotations."""

    def test_rules_pass_promtool_check(self):
        running.tool("promtool", "check", "rules", RULES)
        running.tool("promtool", "check", "config", "--syntax-only", FOLDER / "prometheus.yaml")

    def test_rules_pass_promtool_tests(self):
        running.tool("promtool", "test", "rules", *TESTS)

    def test_every_alert_has_firing_and_silent_tests(self):
        fired, silent = set(), set()
        for case in (case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]):
            for expected in case.get("alert_rule_test", []):
                (fired if expected["exp_alerts"] else silent).add(expected["alertname"])
        self.assertEqual(set(ALERTS), fired)
        self.assertEqual(set(ALERTS), silent)

    def test_every_alert_has_severity_and_runbook(self):
        self.assertGreater(len(ALERTS), 15)
        operations = (running.ROOT / "docs" / "OPERATIONS.md").read_text()
        # The anchor that GitHub derives from a heading.
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
                   for title in re.findall(r"^#+ (.+)$", operations, re.M)}
        named = set()
        for name, alert in ALERTS.items():
            self.assertIn(alert["labels"]["severity"], {"page", "ticket", "info"}, name)
            self.assertTrue(alert["annotations"]["summary"], name)
            file, anchor = alert["annotations"]["runbook"].split("#")
            self.assertEqual(file, "docs/OPERATIONS.md")
            self.assertIn(anchor, anchors, f"{name} has no runbook")
            self.assertIn(f"\n### {name}\n\n*{alert['labels']['severity']}.* ", operations, "the runbook's first word")
            named.add(anchor)
        written = {anchor for anchor in anchors if anchor.startswith("shoppergateway")}
        self.assertEqual(written, named, "a runbook without its alert")

    def test_sunset_date_matches_sunset_header(self):
        sources = "\n".join(path.read_text() for path in (running.ROOT / "src" / "gateway").rglob("*.rs"))
        sources += (running.ROOT / "src" / "gateway.rs").read_text()
        sunset = re.search(r'const SUNSET: .*from_static\("(.+)"\)', sources).group(1)
        moment = datetime.datetime.strptime(sunset, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=datetime.timezone.utc)
        self.assertIn(f"expr: vector({moment.timestamp():.0f})", RULES.read_text())


if __name__ == "__main__":
    unittest.main()
