"""The hosted workflow runs what `make test` runs, with the toolchain of rust-toolchain.toml."""

import re
import tomllib
import unittest

import running
import yaml


def parts_of(target, makefile):
    """The targets that a target of the Makefile runs: its prerequisites and its calls of make."""
    rule = re.search(rf"^{target}:([^#\n]*)[^\n]*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    calls = re.findall(r"\$\(MAKE\) (?:--\S+ )*([a-z-]+)", rule[2])
    return set(rule[1].split()) | set(calls)


class Workflow(unittest.TestCase):
    """.github/workflows/ci.yml."""

    def setUp(self):
        self.makefile = (running.ROOT / "Makefile").read_text()
        workflow = yaml.safe_load((running.ROOT / ".github" / "workflows" / "ci.yml").read_text())
        self.jobs = workflow["jobs"]

    def test_jobs_run_the_parts_of_make_test(self):
        jobs = self.jobs["make"]["strategy"]["matrix"]["include"]
        targets = set(re.findall(r"^([a-z-]+):", self.makefile, re.MULTILINE))
        self.assertLessEqual({job["target"] for job in jobs}, targets)
        self.assertEqual({job["target"] for job in jobs}, parts_of("test", self.makefile))
        variables = set(re.findall(r"^([A-Z_]+) :=", self.makefile, re.MULTILINE))
        for job in jobs:
            self.assertLessEqual(set(re.findall(r"(\w+)=", job.get("arguments", ""))), variables)

    def test_calls_of_make_name_a_target_of_the_matrix(self):
        calls = [step["run"] for job in self.jobs.values() for step in job["steps"] if "make " in step.get("run", "")]
        self.assertEqual(calls, ["make ${{ matrix.target }} ${{ matrix.arguments }}"])

    def test_toolchain_is_the_pinned_one(self):
        channel = tomllib.loads((running.ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
        for name, job in self.jobs.items():
            image = job["container"]["image"]
            self.assertRegex(image, rf"/rust:{re.escape(channel)}-", name)
            commands = [step.get("run", "") for step in job["steps"]]
            # Without a name, rustup installs the toolchain of the file, with its components.
            self.assertIn("rustup toolchain install", commands, name)

    def test_actions_are_pinned_by_commit(self):
        used = [step["uses"] for job in self.jobs.values() for step in job["steps"] if "uses" in step]
        self.assertGreater(len(used), 0)
        for action in used:
            self.assertRegex(action, r"@[0-9a-f]{40}$")


if __name__ == "__main__":
    unittest.main()
