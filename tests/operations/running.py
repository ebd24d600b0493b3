"""Runs real programs for these tests: the built gateway and simulator, and third-party tools.

Binaries, free ports, waits with a limit, and the end of every process. Loopback only.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARIES = pathlib.Path(os.environ.get("BINARIES", ROOT / "target" / "debug"))
ORGANIZATION = "f_ecom_zzrf_001"
PUBLIC_CLIENT = "11111111-1111-4111-8111-111111111111"
# Maximum wait for a condition, in seconds; generous, for a busy machine.
PATIENCE = 60.0


def eventually(what, attempt, patience=PATIENCE):
    """Polls `attempt`, and returns its first true value."""
    end = time.monotonic() + patience
    last = None
    while time.monotonic() < end:
        try:
            if value := attempt():
                return value
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"never true: {what}; last error: {last}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool(*arguments, **options):
    """Runs a tool to its end. A failure shows its output."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Program:
    """A program that runs until the end of the `with`."""

    def __init__(self, *arguments, **options):
        self.output = []
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.output.append(line)

    def said(self, pattern):
        """Waits for the first match of `pattern` in its output."""
        def found():
            ended = self.process.poll() is not None
            match = re.search(pattern, "".join(self.output))
            if match is None and ended:
                raise AssertionError(f"{self.process.args[0]} ended:\n{''.join(self.output)}")
            return match
        return eventually(f"{self.process.args[0]} says {pattern}", found)

    def end(self):
        """Sends SIGTERM, and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.reader.join(PATIENCE)
            self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Client:
    """An HTTP client with one certificate authority, or none. No status raises an exception."""

    def __init__(self, authority=None):
        context = ssl.create_default_context(cafile=authority) if authority else None
        handlers = [urllib.request.ProxyHandler({})]
        if context:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self.opener = urllib.request.build_opener(*handlers)

    def send(self, method, url, body=None, headers=None):
        """Returns (status, header fields, body)."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
        try:
            answer = self.opener.open(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            answer = error
        with contextlib.closing(answer):
            return answer.status, answer.headers, answer.read().decode()

    def json(self, url):
        status, _, body = self.send("GET", url)
        assert status == 200, f"{url}: {status} {body}"
        return json.loads(body)


@contextlib.contextmanager
def simulator():
    """Runs a simulated Salesforce, and yields its URL."""
    with Program(BINARIES / "salesforce-simulator", "--listen", "127.0.0.1:0") as program:
        yield program.said(r"Salesforce simulator on (http://\S+)").group(1)


def certificate(folder):
    """A self-signed certificate for localhost and its key, PEM."""
    paths = folder / "certificate.pem", folder / "private-key.pem"
    tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-out", paths[0], "-keyout", paths[1])
    paths[1].chmod(0o400)
    return paths


def folder():
    return tempfile.TemporaryDirectory(prefix="shopper-gateway-")
