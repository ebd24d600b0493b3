"""Runs the commands of a page of documentation as a reader would: in one shell, from top to bottom.

Every `sh` block contains commands, and all of them are run. A comment right above a block, which a rendered page does not
show, changes that:

    <!-- output -->             no commands, but the output of the commands before; `…` matches anything
    <!-- elsewhere: reason -->  commands that cannot run in a test: only their syntax and what they name are checked
"""

import dataclasses
import re
import subprocess

import running

FENCE = re.compile(r"(?:^<!-- ?([^\n]*?) ?-->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ["bash", "--noprofile", "--norc"]
# Separates the outputs of blocks; no command prints it.
MARK = "\x1e"
# Files of this repository in a command.
NAMED = re.compile(r"(?<![\w./-])(?:config|deploy|docs|simulator|tests)/[\w./-]*\w")
# Time limit of a page, in seconds.
LIMIT = 300


@dataclasses.dataclass
class Block:
    """A block of a page: its kind, its text, and the line where it begins."""

    kind: str
    text: str
    line: int


def blocks(page):
    """The blocks of a page: commands, their output, and commands that are only checked."""
    for found in FENCE.finditer(page):
        comment, language, text = found.group(1) or "", found.group(2), found.group(3)
        line = page.count("\n", 0, found.start(3)) + 1
        if comment == "output":
            yield Block("output", text, line)
        elif language == "sh":
            elsewhere = re.fullmatch(r"elsewhere: (\S.*)", comment)
            if comment and not elsewhere:
                raise AssertionError(f"line {line}: what is meant by <!-- {comment} -->?")
            yield Block("elsewhere" if elsewhere else "run", text, line)


def look_at(block):
    """Checks commands that are not run: their syntax, the files that they name, the targets of make."""
    running.tool(*SHELL, "-n", "-c", block.text)
    for name in NAMED.findall(block.text):
        assert (running.ROOT / name).exists(), f"line {block.line}: there is no {name}"
    targets = re.findall(r"^([\w-]+):", (running.ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|&& )make ([\w-]+)", block.text, re.MULTILINE):
        assert target in targets, f"line {block.line}: make has no target {target}"


def at(addresses, text):
    """The text with the actual addresses of the programs."""
    for documented, actual in addresses.items():
        text = text.replace(documented, actual)
    return text


def run(page, folder, addresses, path):
    """Runs a page in a folder, with these addresses in place of its own and this PATH. Returns the number of blocks that ran."""
    commands, expected = [], {}
    for block in blocks(at(addresses, page)):
        if block.kind == "run":
            commands.append(block)
        elif block.kind == "output":
            expected[len(commands) - 1] = block
        else:
            look_at(block)
    script = "set -eu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    script += "".join(f"printf '{MARK}'\n{block.text}" for block in commands)
    done = subprocess.run(
        [*SHELL, "-c", script], cwd=folder, env={"PATH": path, "HOME": str(folder), "no_proxy": "*"}, timeout=LIMIT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _, *outputs = done.stdout.split(MARK)
    for number, (block, output) in enumerate(zip(commands, outputs)):
        if number in expected and not fits(expected[number].text, output):
            shown = f"line {expected[number].line}: the page shows\n{expected[number].text}but it is\n{output}"
            raise AssertionError(shown)
        if number == len(outputs) - 1 and done.returncode != 0:
            raise AssertionError(f"line {block.line}: exit code {done.returncode}\n{block.text}\n{output}")
    assert len(outputs) == len(commands), f"{len(outputs)} of {len(commands)} blocks ran\n{done.stdout}"
    return len(commands)


def fits(shown, output):
    """Whether an output matches a page, line by line: `…` matches anything in a line, and alone any lines."""
    def pattern(line):
        return r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"

    lines = [line.rstrip() for line in output.splitlines()]
    return re.fullmatch("".join(map(pattern, shown.splitlines())) + r"\n*", "\n".join(lines) + "\n") is not None
