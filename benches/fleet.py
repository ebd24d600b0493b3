#!/usr/bin/env python3
"""What sessions cost in Redis, measured on a few and reckoned for a fleet.

Starts a Redis, a simulated Salesforce and two gateways that share the Redis; has shoppers log in at one and go on at
the other; and asks Redis what it holds and what it was asked. From that: memory, operations and locks for so many
sessions and replicas. `make fleet` runs it.
"""

import argparse
import base64
import collections
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLIENT = "11111111-1111-4111-8111-111111111111"
# Commands in which Redis is told that a session was used: the script, a look and a write.
TELLING = 3
# Seconds that a token lives here: long enough to be used, short enough to be waited for.
LIFE = 40
ORGANIZATION = "f_ecom_zzrf_001"
LOGIN = f"/customer/shopper-customers/v1/organizations/{ORGANIZATION}/customers/actions/login?siteId=RefArch&clientId={CLIENT}"
READ = f"/product/shopper-products/v1/organizations/{ORGANIZATION}/products?ids=a&siteId=RefArch"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, method, path, body=None, token=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"} if body else {}
    if token:
        headers["Authorization"] = token
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer


def wait_for(port, path="/readyz"):
    for _ in range(600):
        try:
            if ask(port, "GET", path).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"nothing is ready at port {port}")


class Redis:
    """Redis, queried with its command-line client."""

    def __init__(self, port):
        self.port = port

    def run(self, *words):
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def info(self, section):
        lines = (line.split(":", 1) for line in self.run("INFO", section).splitlines() if ":" in line)
        return {name: value.strip() for name, value in lines}

    def calls(self):
        stats = self.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): int(value.split(",")[0].split("=")[1]) for name, value in stats.items()}
        # The stream of logouts is read at an interval, whatever the requests, and is calculated separately.
        own = ("xrange", "info", "config|resetstat", "hello", "client|setinfo", "ping", "select", "script|load", "command|docs")
        return collections.Counter({name: count for name, count in calls.items() if name not in own})

    def memory(self):
        return int(self.info("memory")["used_memory"])


def start(stack, folder, binaries):
    redis_port, simulator_port = free_port(), free_port()
    stack.append(subprocess.Popen(["redis-server", "--port", str(redis_port), "--save", "", "--dir", str(folder)],
                                  stdout=subprocess.DEVNULL))
    stack.append(subprocess.Popen([binaries / "salesforce-simulator", "--listen", f"127.0.0.1:{simulator_port}"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    key = base64.b64encode(bytes(range(32))).decode()
    gateways = []
    for number in range(2):
        port, admin = free_port(), free_port()
        configuration = folder / f"gateway-{number}.toml"
        configuration.write_text(f"""
[server]
listen = ["127.0.0.1:{port}"]
[admin]
listen = "127.0.0.1:{admin}"
[limits]
slas_calls_per_address = 0
[logins]
guests_per_address = 0
[log]
level = "error"
audit_file = "{folder}/audit-{number}.jsonl"
[sessions]
refresh_ahead = "5m"
[store]
kind = "redis"
url = "redis://127.0.0.1:{redis_port}/0"
encryption_key = "{key}"
[[tenants]]
organization_id = "{ORGANIZATION}"
api = "http://127.0.0.1:{simulator_port}"
sites = ["RefArch"]
slas_requests_per_minute = 1000000
[[tenants.slas_clients]]
client_id = "{CLIENT}"
redirect_uri = "http://localhost:3000/callback"
""")
        stack.append(subprocess.Popen([binaries / "shopper-gateway", "serve", "-c", configuration],
                                      stderr=subprocess.DEVNULL))
        gateways.append((port, admin))
    for _, admin in gateways:
        wait_for(admin)
    return Redis(redis_port), simulator_port, [port for port, _ in gateways]


def step(redis, count, what, act):
    """The commands that Redis received for each of `count` repetitions of `what`."""
    redis.run("CONFIG", "RESETSTAT")
    act()
    calls = redis.calls()
    each = {name: calls[name] / count for name in sorted(calls) if calls[name] >= count / 20}
    total = sum(each.values())
    words = ", ".join(f"{name} {share:.1f}" for name, share in each.items())
    print(f"| {what} | {total:.1f} | {words} |")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=pathlib.Path, required=True, help="folder of the built programs")
    parser.add_argument("--measured", type=int, default=1_000, help="sessions that are measured")
    parser.add_argument("--sessions", type=int, default=50_000_000)
    parser.add_argument("--active", type=int, default=1_000_000, help="shoppers who are on the site at a time")
    parser.add_argument("--replicas", type=int, default=100)
    options = parser.parse_args()
    stack, folder = [], pathlib.Path(tempfile.mkdtemp())
    try:
        measure(options, *start(stack, folder, options.binaries))
    finally:
        for process in reversed(stack):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def measure(options, redis, simulator, gateways):
    count = options.measured
    first, second = gateways
    control = http.client.HTTPConnection("127.0.0.1", simulator, timeout=10)
    tokens = []

    def log_in():
        for _ in range(count):
            answer = ask(first, "POST", LOGIN, '{"type":"guest"}')
            if answer.status != 200:
                sys.exit(f"a login is answered {answer.status}")
            tokens.append(answer.headers["Authorization"])

    def go_on(gateway):
        for token in tokens:
            if ask(gateway, "GET", READ, token=token).status != 200:
                sys.exit("a request with a session's token fails")

    control.request("PATCH", "/__simulator/behaviour", json.dumps({"shopper_token_seconds": LIFE, "slas_requests_per_minute": 1_000_000}),
                    {"Content-Type": "application/json"})
    control.getresponse().read()
    # Entries that exist once are created before the measurement.
    log_in()
    tokens.clear()
    before = redis.memory()
    print("| what | commands to Redis | which |\n|---|---|---|")
    login = step(redis, count, "a guest logs in", log_in)
    bytes_each = (redis.memory() - before) / count
    step(redis, count, "a request at the gateway that has the session", lambda: go_on(first))
    move = step(redis, count, "the first request at another gateway", lambda: go_on(second))
    time.sleep(LIFE)
    renewal = step(redis, count, "a request with an expired token, and its refresh", lambda: go_on(second))
    print(f"\nmemory: {bytes_each:.0f} bytes of Redis for a session with its tokens, and its share of the tables of keys\n")

    copies = options.sessions * bytes_each / 1e9
    renewals = options.active / (25 * 60)
    logins = options.active / (30 * 60)
    moves = options.active / (10 * 60)
    told = options.active / 60
    operations = renewals * renewal + logins * login + moves * move + told * TELLING
    print(f"Calculated for {options.sessions:,} sessions, {options.replicas} replicas, {options.active:,} shoppers on the site:\n")
    print("| what | figure | how |\n|---|---|---|")
    print(f"| memory | {copies:.0f} GB, {2 * copies:.0f} GB with one copy of each shard | {bytes_each:.0f} bytes each |")
    print(f"| logins | {logins:,.0f}/s | each shopper once in 30 minutes |")
    print(f"| refreshes | {renewals:,.0f}/s | each shopper once in 25 minutes: 30 less the 5 of `sessions.refresh_ahead` |")
    print(f"| first requests at a gateway that does not have the session | {moves:,.0f}/s | each shopper once in 10 minutes |")
    print(f"| recorded uses of sessions | {told:,.0f}/s | one a minute for each shopper: a script of {TELLING} commands |")
    print(f"| operations | {operations:,.0f}/s | the sum of the above |")
    print(f"| locks | {renewals:,.0f}/s, {renewals * 0.2:,.0f} held at a time | one for each refresh, for as long as SLAS takes (200 ms) |")
    print(f"| shards at 25 GB and 50,000 operations/s | {max(-(-copies // 25), -(-operations // 50_000)):.0f} | the larger of the two numbers |")
    print(f"| reads of the stream of logouts | {options.replicas / 0.3:,.0f}/s | one by each replica every 300 ms |")


if __name__ == "__main__":
    main()
