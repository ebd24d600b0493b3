"""The Debian package: built, installed, started as in its unit, queried, stopped and removed.

dpkg installs it with its scripts into a copy of this machine that only the test sees: an overlay in a mount namespace of its own.
That needs root, or sudo. No systemd runs there, so the test itself follows the units.
"""

import configparser
import gzip
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import unittest

import running
import shop

PRIVATE_CLIENT = "22222222-2222-4222-8222-222222222222"
UNIT = "/usr/lib/systemd/system/shopper-gateway.service"
EXAMPLES = "/usr/share/doc/shopper-gateway/examples"
CREDENTIALS = "/run/credentials/shopper-gateway.service"
# Prefix of commands that need root.
ROOT = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
# Maximum exposure by `systemd-analyze security`, in tenths: 0 is best, 100 is worst.
EXPOSURE = 15


class Package(unittest.TestCase):
    """Contents and life cycle, in order: each step needs the one before."""

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(running.folder()))
        cls.folder, cls.package = folder, build(folder)
        cls.room = cls.enterClassContext(Room(folder))

    def test_manual_and_completions_are_included(self):
        listed = running.tool("dpkg", "-c", self.package)
        page = "usr/share/man/man1/shopper-gateway.1.gz"
        scripts = {
            "bash": "usr/share/bash-completion/completions/shopper-gateway",
            "zsh": "usr/share/zsh/vendor-completions/_shopper-gateway",
            "fish": "usr/share/fish/vendor_completions.d/shopper-gateway.fish",
        }
        for path in [page, *scripts.values()]:
            self.assertRegex(listed, rf"(?m)^-rw-r--r-- 0/0 .* \./{re.escape(path)}$")
        root = self.folder / "unpacked"
        running.tool("dpkg-deb", "--extract", self.package, root)
        gateway = running.BINARIES / "shopper-gateway"
        self.assertEqual(gzip.decompress((root / page).read_bytes()).decode(), running.tool(gateway, "man"))
        for shell, path in scripts.items():
            self.assertEqual((root / path).read_text(), running.tool(gateway, "completions", shell))

    def test_package_installs_serves_and_is_removed(self):
        self.install()
        self.unit_is_sound()
        with running.simulator() as simulator:
            self.configure(simulator)
            self.serve()
            self.serve_on_a_socket_of_systemd()
        self.remove()

    def install(self):
        self.room.write("/tmp/shopper-gateway.deb", self.package.read_bytes())
        self.room.run("dpkg", "--install", "/tmp/shopper-gateway.deb")
        self.assertIn("shopper-gateway", self.room.run("getent", "passwd", "shopper-gateway"))
        modes = self.room.run("stat", "-c", "%a %U:%G %n", "/etc/shopper-gateway/secrets", "/etc/shopper-gateway/tls")
        self.assertEqual(modes.split("\n")[:2], [
            "700 root:root /etc/shopper-gateway/secrets", "750 root:shopper-gateway /etc/shopper-gateway/tls"])
        # Without configuration the start fails, and names the missing keys.
        with self.assertRaisesRegex(AssertionError, "tenants"):
            self.room.run("shopper-gateway", "check", "-c", "/etc/shopper-gateway/gateway.toml")

    def unit_is_sound(self):
        self.room.run("cp", f"{EXAMPLES}/shopper-gateway.socket", "/etc/systemd/system")
        for unit in [UNIT, "/etc/systemd/system/shopper-gateway.socket"]:
            said = self.room.run("sh", "-c", f"systemd-analyze verify {unit} 2>&1")
            self.assertNotIn("shopper-gateway", said)
        self.room.run("rm", "/etc/systemd/system/shopper-gateway.socket")
        self.room.run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", UNIT)
        # ExecReload commands get no credentials, so `check` could not read the secrets there, and the reload would fail.
        for line in re.findall(r"^ExecReload=(.*)$", self.room.run("cat", UNIT), re.M):
            self.assertNotIn("shopper-gateway", line)
        unit = self.unit(UNIT)
        self.assertEqual(unit["Unit"]["StartLimitIntervalSec"], "0", "five failures would be the end")
        self.assertEqual(unit["Service"]["Restart"], "always", "a hand-over is a success, and ends the service")
        self.assertEqual(unit["Service"]["LogRateLimitIntervalSec"], "0", "each request is a line")

    def unit(self, path):
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str
        unit.read_string(self.room.run("cat", path))
        return unit

    def configure(self, simulator):
        self.room.write("/etc/shopper-gateway/secrets/slas", b"private-client-secret\n")
        tenant = f"""
[[tenants]]
organization_id = "{running.ORGANIZATION}"
api = "{simulator}"
sites = ["RefArch"]
[[tenants.slas_clients]]
client_id = "{PRIVATE_CLIENT}"
client_secret = {{ file = "{CREDENTIALS}/secret_slas" }}
redirect_uri = "http://localhost:3000/callback"
"""
        self.room.write("/etc/shopper-gateway/gateway.toml", tenant.encode(), "--append")
        # The effects of StateDirectory and LoadCredential.
        self.room.run("install", "-d", "-m", "0700", "-o", "shopper-gateway", "/var/lib/shopper-gateway")
        self.room.run("install", "-d", "-m", "0500", "-o", "shopper-gateway", CREDENTIALS)
        self.room.run("install", "-m", "0400", "-o", "shopper-gateway", "/etc/shopper-gateway/secrets/slas",
                      f"{CREDENTIALS}/secret_slas")

    def serve(self):
        environment, command = self.started({"SHOPPER_GATEWAY__SERVER__LISTEN": "127.0.0.1:0"})
        with self.room.start("env", "-i", *environment, *command) as gateway:
            admin = gateway.said(r'"listening for operators"[^\n]*"address":"([^"]+)"').group(1)
            address = gateway.said(r'"listening"[^\n]*"address":"([^"]+)"').group(1)
            client = running.Client()
            running.eventually("it is ready", lambda: client.send("GET", f"http://{admin}/readyz")[0] == 200)
            self.log_in(client, address)
            self.assertEqual(gateway.end(), 0)
            self.assertIn(".json", self.room.run("ls", "/var/lib/shopper-gateway/keys"))

    def serve_on_a_socket_of_systemd(self):
        """The socket exists before the gateway: a client that connects waits, and is served."""
        # The address must be equal in both files, or the gateway opens another socket.
        (listen,) = re.findall(r'^listen = \["(.+)"\]$', self.room.run("cat", "/etc/shopper-gateway/gateway.toml"), re.M)
        self.assertEqual(self.unit(f"{EXAMPLES}/shopper-gateway.socket")["Socket"]["ListenStream"], listen)
        address = f"127.0.0.1:{running.free_port()}"
        environment, command = self.started({"SHOPPER_GATEWAY__SERVER__LISTEN": address})
        settings = [argument for setting in environment for argument in ("--setenv", setting)]
        with self.room.start("systemd-socket-activate", f"--listen={address}", *settings, *command) as gateway:
            gateway.said("Listening on")
            self.log_in(running.Client(), address)
            gateway.said(rf'"listening"[^\n]*"address":"{address}"')

    def started(self, settings):
        """The environment and the command of the service, with changed settings."""
        service = self.unit(UNIT)["Service"]
        settings = {"CREDENTIALS_DIRECTORY": CREDENTIALS, "SHOPPER_GATEWAY__ADMIN__LISTEN": "127.0.0.1:0", **settings}
        return [service["Environment"], *(f"{name}={value}" for name, value in settings.items())], [
            "setpriv", f"--reuid={service['User']}", f"--regid={service['Group']}", "--init-groups",
            "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--", *shlex.split(service["ExecStart"])]

    def log_in(self, client, address):
        login = shop.LOGIN.replace(running.PUBLIC_CLIENT, PRIVATE_CLIENT)
        status, _, body = client.send("POST", f"http://{address}{login}", '{"type":"guest"}')
        self.assertEqual(status, 200, body)

    def remove(self):
        # The effect of LogsDirectory.
        self.room.run("install", "-D", "-o", "shopper-gateway", "/dev/null", "/var/log/shopper-gateway/audit.log")
        self.room.run("dpkg", "--purge", "shopper-gateway")
        for path in ["/usr/bin/shopper-gateway", UNIT, "/etc/shopper-gateway/gateway.toml", "/etc/shopper-gateway/tls",
                     "/var/lib/shopper-gateway", "/var/log/shopper-gateway"]:
            self.room.run("test", "!", "-e", path)
        # The package leaves secrets to the administrator. Without secrets it leaves nothing.
        self.room.run("rm", "/etc/shopper-gateway/secrets/slas")
        self.room.run("dpkg", "--install", "/tmp/shopper-gateway.deb")
        self.room.run("dpkg", "--purge", "shopper-gateway")
        self.room.run("test", "!", "-e", "/etc/shopper-gateway")


def build(folder):
    """The package of the binary that the tests use: the same files and scripts as a release."""
    release = folder / "target" / "release"
    release.mkdir(parents=True)
    shutil.copy(running.BINARIES / "shopper-gateway", release)
    running.tool(running.DEPLOY / "debian" / "manual.sh", release / "shopper-gateway")
    package = folder / "shopper-gateway.deb"
    running.tool("cargo", "deb", "--no-build", "--no-strip", "--fast", "--output", package, cwd=running.ROOT,
                 env={**os.environ, "CARGO_TARGET_DIR": str(folder / "target")})
    return package


class Room:
    """A temporary writable copy of this machine's files."""

    def __init__(self, folder):
        self.folder = folder / "room"

    def __enter__(self):
        self.folder.mkdir()
        mounts = (f"mount -t tmpfs room {self.folder} && cd {self.folder} && mkdir upper work root"
                  " && mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root"
                  " && for kernels in proc sys dev; do mount --rbind /$kernels root/$kernels; done"
                  " && echo furnished by $$ && exec sleep 3600")
        self.holder = running.Program(*ROOT, "unshare", "--mount", "--propagation", "private", "sh", "-c", mounts)
        holder = self.holder.said(r"furnished by (\d+)").group(1)
        self.enter = [*ROOT, "nsenter", f"--target={holder}", "--mount", "chroot", f"{self.folder}/root"]
        return self

    def __exit__(self, *_):
        self.holder.end()

    def run(self, *command):
        return running.tool(*self.enter, *command)

    def start(self, *command):
        return running.Program(*self.enter, *command)

    def write(self, path, content, *how):
        subprocess.run([*self.enter, "tee", *how, path], input=content, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    unittest.main()
