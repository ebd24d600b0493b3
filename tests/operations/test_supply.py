"""The software bill of materials, and the licences of the dependencies."""

import json
import pathlib
import re
import shutil
import tempfile
import unittest

import running


class Supply(unittest.TestCase):
    """`make sbom` and `make licences`."""

    def made(self, target):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        running.tool(shutil.which("make"), "--silent", target, f"SUPPLY={folder}", cwd=running.ROOT)
        return pathlib.Path(folder)

    def test_sbom_lists_runtime_dependencies_only(self):
        bill = json.loads((self.made("sbom") / "shopper-gateway.cdx.json").read_text())
        self.assertEqual(bill["metadata"]["component"]["name"], "shopper-gateway")
        locked = set(re.findall(r'name = "(.+)"\nversion = "(.+)"', (running.ROOT / "Cargo.lock").read_text()))
        named = {(component["name"], component["version"]) for component in bill["components"]}
        self.assertGreater(len(named), 100)
        self.assertLessEqual(named, locked)
        names = {name for name, _ in named}
        self.assertLessEqual({"pingora", "rustls", "redis"}, names)
        self.assertFalse({"proptest", "criterion", "salesforce-simulator"} & names, "a test's, and not built in")
        self.assertEqual([c["name"] for c in bill["components"] if not c.get("licenses")], [])

    def test_every_licence_is_allowed(self):
        licences = json.loads((self.made("licences") / "licences.json").read_text())
        self.assertLessEqual({"Apache-2.0", "MIT"}, {name for name, _ in licences["licenses"]})
        self.assertEqual(licences["unlicensed"], [])


if __name__ == "__main__":
    unittest.main()
