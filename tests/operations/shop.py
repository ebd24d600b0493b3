"""Load for the metrics: repeats every kind of request whose figures the dashboard shows.

Checks the outcome of each request. Also causes the rare cases: rejections, refreshed sessions, failed token requests and failed
requests.
"""

import base64
import json
import socket
import threading
import time
import urllib.parse

from running import ORGANIZATION, PUBLIC_CLIENT

LOGIN = f"/customer/shopper-customers/v1/organizations/{ORGANIZATION}/customers/actions/login?siteId=RefArch&clientId={PUBLIC_CLIENT}"
PRODUCTS = f"/product/shopper-products/v1/organizations/{ORGANIZATION}/products?ids=701642812398M&siteId=RefArch"
ORDERS = f"/checkout/orders/v1/organizations/{ORGANIZATION}/orders?siteId=RefArch"


def basic(credentials):
    return "Basic " + base64.b64encode(credentials.encode()).decode()


SHOPPER = basic("shopper@example.com:Passw0rd!shopper")
CALLER = basic("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb:caller-secret")
# Lifetime of a token that is to be refreshed, in seconds.
SHORT_LIFE = 2


class Shop:
    """Callers of one gateway in front of one simulator."""

    def __init__(self, client, gateway, simulator):
        self.client, self.gateway, self.simulator = client, gateway, simulator
        self.aging = None, 0.0
        self.stopping = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def _run(self):
        try:
            while not self.stopping.wait(0.05):
                self.once()
        except Exception as error:  # noqa: BLE001: told to the test, which fails with it
            self.failure = error

    def once(self):
        """One request of each kind."""
        self.renewed()
        token = self.guest()
        for _ in range(3):
            self.expect(200, "GET", PRODUCTS, bearer=token)
        self.registered()
        self.expect(401, "GET", PRODUCTS)
        self.stranger()
        self.expect(401, "GET", PRODUCTS, bearer="no.token.atall")
        self.expect(200, "GET", ORDERS, bearer=self.system_token())
        # The same caller with Basic credentials, as itself and on behalf of a shopper: the gateway obtains the tokens.
        self.expect(200, "GET", ORDERS, headers={"Authorization": CALLER})
        self.expect(200, "GET", PRODUCTS, headers={"Authorization": CALLER, "X-On-Behalf-Of": "second@example.com"})
        self.control("POST", "faults", fault("api", "shopper-products.getProducts", 500))
        self.expect(500, "GET", PRODUCTS, bearer=token)
        self.control("POST", "faults", fault("slas", "authorize:guest", 503))
        self.expect(503, "POST", LOGIN, body='{"type":"guest"}')

    def renewed(self):
        """Uses a session whose token has expired, so that it is refreshed. Then another token begins to age."""
        token, born = self.aging
        if time.monotonic() - born < SHORT_LIFE + 0.5:
            return
        if token:
            self.expect(200, "GET", PRODUCTS, bearer=token)
        self.control("PATCH", "behaviour", {"shopper_token_seconds": SHORT_LIFE})
        self.aging = self.guest(), time.monotonic()
        self.control("PATCH", "behaviour", {"shopper_token_seconds": 1800})

    def guest(self):
        headers = self.expect(200, "POST", LOGIN, body='{"type":"guest"}')
        return headers["authorization"].removeprefix("Bearer ")

    def registered(self):
        self.expect(200, "POST", LOGIN, body='{"type":"credentials"}', headers={"Authorization": SHOPPER})

    def stranger(self):
        """A client without TLS, whose connection is closed."""
        address = urllib.parse.urlsplit(self.gateway)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")

    def system_token(self):
        """A token of the demo's caller, signed by the simulator."""
        status, _, body = self.client.send(
            "POST", f"{self.simulator}/dwsso/oauth2/access_token",
            "grant_type=client_credentials&scope=SALESFORCE_COMMERCE_API:zzrf_001%20sfcc.orders",
            {"Authorization": CALLER, "Content-Type": "application/x-www-form-urlencoded"})
        assert status == 200, body
        return json.loads(body)["access_token"]

    def expect(self, expected, method, target, body=None, bearer=None, headers=None):
        headers = {"Content-Type": "application/json", **(headers or {})}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        status, answer, text = self.client.send(method, self.gateway + target, body, headers)
        assert status == expected, f"{method} {target}: {status} instead of {expected}: {text}"
        return answer

    def control(self, method, what, body):
        status, _, text = self.client.send(method, f"{self.simulator}/__simulator/{what}", json.dumps(body))
        assert status < 300, text


def fault(service, flow, code):
    return {"service": service, "flow": flow, "remaining": 1, "effect": {"kind": "status", "code": code}}
