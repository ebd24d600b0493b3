"""The commands of the documents have the effects that the documents describe.

The first command of README.md starts the demo, and other pages use it too. docs/MIGRATION.md starts its own gateway and simulator.
simulator/README.md has its own simulator, because it changes the simulator's behaviour.
"""

import os
import shutil
import pathlib
import unittest

import pages
import running

DEMO = "make demo"
# The addresses in the pages. On a machine of tests they may be in use.
SHOP, OPERATORS, SALESFORCE = "127.0.0.1:8080", "127.0.0.1:9090", "127.0.0.1:8081"
# Every page with commands; each has its test below.
PAGES = {
    "README.md", "CONTRIBUTING.md", "docs/CONFIGURATION.md", "docs/MIGRATION.md", "docs/OPERATIONS.md",
    "docs/PERFORMANCE.md", "simulator/README.md",
}
# Folders of third-party and generated files.
NOT_OURS = {"node_modules", "target"}


def read(name):
    return (running.ROOT / name).read_text()


class Documents(unittest.TestCase):
    """Each page, from top to bottom."""

    @classmethod
    def setUpClass(cls):
        assert f"\n{DEMO} " in read("README.md"), f"README.md does not begin with {DEMO}"
        environment = {**os.environ, "CARGO_TARGET_DIR": str(running.BINARIES.parent)}
        demo = cls.enterClassContext(running.Program(*DEMO.split(), cwd=running.ROOT, env=environment))
        demo.said("The demo runs until Ctrl-C")
        cls.demo = {
            SHOP: demo.said(r"shop: +http://(\S+)").group(1),
            OPERATORS: demo.said(r"operators: +http://([^/\s]+)").group(1),
            SALESFORCE: demo.said(r"http://(\S+)  \(overview").group(1),
        }
        cls.path = f"{running.BINARIES}:{os.environ['PATH']}"

    def run_page(self, name, addresses):
        with running.folder() as folder:
            for what in ("config", "deploy"):
                shutil.copytree(running.ROOT / what, pathlib.Path(folder) / what)
            for file in pathlib.Path(folder, "config").glob("*.toml"):
                file.write_text(pages.at(addresses, file.read_text()))
            return pages.run(read(name), folder, addresses, self.path)

    def test_all_pages_with_commands_are_listed(self):
        found = {page.relative_to(running.ROOT) for page in running.ROOT.rglob("*.md")}
        ours = {str(page) for page in found if not NOT_OURS.intersection(page.parts)}
        self.assertEqual({page for page in ours if any(pages.blocks(read(page)))}, PAGES)

    def test_readme_commands_work(self):
        self.assertGreater(self.run_page("README.md", self.demo), 3)

    def test_configuration_commands_work(self):
        self.assertGreater(self.run_page("docs/CONFIGURATION.md", self.demo), 0)

    def test_operations_commands_work(self):
        self.assertGreater(self.run_page("docs/OPERATIONS.md", self.demo), 3)

    def test_migration_commands_work(self):
        own = {address: f"127.0.0.1:{running.free_port()}" for address in self.demo}
        self.assertGreater(self.run_page("docs/MIGRATION.md", own), 10)

    def test_simulator_commands_work(self):
        with running.simulator() as simulator:
            own = {SALESFORCE: simulator.removeprefix("http://")}
            self.assertEqual(self.run_page("simulator/README.md", own), 5)

    def test_contributing_commands_exist(self):
        # The commands take too long, or are these tests. Only their files and targets are checked.
        self.assertEqual(self.run_page("CONTRIBUTING.md", {}), 0)

    def test_performance_commands_exist(self):
        self.assertEqual(self.run_page("docs/PERFORMANCE.md", {}), 0)


class Pages(unittest.TestCase):
    """Errors of pages are found."""

    def run_page(self, *blocks):
        page = "".join(f"{comment}\n```{language}\n{text}\n```\n\n" for comment, language, text in blocks)
        with running.folder() as folder:
            return pages.run(page, folder, {"1.2.3.4": "5.6.7.8"}, os.environ["PATH"])

    def test_valid_page_is_run(self):
        ran = self.run_page(
            ("", "sh", "ADDRESS=1.2.3.4"),
            ("", "sh", "echo one; echo two three; echo $ADDRESS"), ("<!-- output -->", "", "…\ntwo …\n1.2.3.4"),
            ("<!-- elsewhere: needs a cluster -->", "sh", "kubectl apply -k deploy/kubernetes/overlays/demo && make deb"),
            ("", "toml", "this is = no command"))
        self.assertEqual(ran, 2)

    def test_errors_of_page_are_reported_with_line(self):
        run, output, elsewhere = "", "<!-- output -->", "<!-- elsewhere: a reason -->"
        for blocks, expected in [
            ([(run, "sh", "true"), (run, "sh", "cat nothing")], r"line 8: exit code 1\n.*No such file"),
            ([(run, "sh", "false; true")], "line 3: exit code 1"),
            ([(run, "sh", "echo $UNSET")], "unbound variable"),
            ([(run, "sh", "echo no"), (output, "", "yes")], "line 8: the page shows\nyes\nbut it is\nno"),
            ([(run, "sh", "echo yes; echo no"), (output, "", "yes")], "but it is\nyes\nno"),
            ([(elsewhere, "sh", "if")], "syntax error"),
            ([(elsewhere, "sh", "kubectl apply -k deploy/nowhere")], "line 3: there is no deploy/nowhere"),
            ([(elsewhere, "sh", "make nothing")], "line 3: make has no target nothing"),
            ([("<!-- elsewhere -->", "sh", "true")], "line 3: what is meant"),
        ]:
            with self.subTest(expected), self.assertRaisesRegex(AssertionError, f"(?s){expected}"):
                self.run_page(*blocks)
