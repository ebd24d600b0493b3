// Pages without an SDK: the deprecated login by `fetch`, the errors that a page can read, and pages of origins that no tenant
// allows. The functions given to `evaluate` run in the page, and return what the page sees.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browserWith } from "./browser.mjs";
import {
  appOrigin,
  clientId,
  foreignOrigins,
  gateway,
  inject,
  organizationId,
  product,
  shopOrigin,
  shopper,
  siteId,
} from "./shop.mjs";

const open = await browserWith("plain");
const login = `${gateway}/customer/shopper-customers/v1/organizations/${organizationId}/customers/actions/login?siteId=${siteId}&clientId=${clientId}`;
const products = `${gateway}/product/shopper-products/v1/organizations/${organizationId}/products?ids=${product}&siteId=${siteId}`;

/** Fetches in the page. Returns what the page can read, or the error that it gets. */
function fetchIn(page, url, init) {
  return page.evaluate(async ([url, init]) => {
    try {
      const response = await fetch(url, init);
      const body = await response.text();
      return { status: response.status, type: response.type, headers: Object.fromEntries(response.headers), body };
    } catch (error) {
      return { error: error.name };
    }
  }, [url, init]);
}

const guestLogin = { method: "POST", headers: { "content-type": "application/json" }, body: '{"type":"guest"}' };

for (const origin of [shopOrigin, appOrigin]) {
  test(`a page at ${origin} logs shoppers in at the deprecated endpoint and uses their tokens`, async () => {
    const page = await open(origin, "plain");
    const guest = await fetchIn(page, login, guestLogin);
    assert.deepEqual([guest.status, JSON.parse(guest.body).authType], [200, "guest"]);
    const found = await fetchIn(page, products, { headers: { authorization: guest.headers.authorization } });
    assert.deepEqual([found.status, JSON.parse(found.body).data[0].id], [200, product]);

    const basic = `Basic ${Buffer.from(`${shopper.username}:${shopper.password}`).toString("base64")}`;
    const registered = await fetchIn(page, login, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: basic },
      body: '{"type":"credentials"}',
    });
    assert.equal(JSON.parse(registered.body).login, shopper.username);
    assert.match(registered.headers.authorization, /^Bearer [\w-]+\.[\w-]+\.[\w-]+$/);
  });
}

test("an allowed page reads errors: of the gateway, of the API, and those of a broken connection", async () => {
  const page = await open(shopOrigin, "plain");
  const { headers } = await fetchIn(page, login, guestLogin);
  const authorization = headers.authorization;
  const withToken = { headers: { authorization } };
  const refusal = async (url, init) => {
    const { status, headers, error, body } = await fetchIn(page, url, init);
    assert.equal(error, undefined);
    assert.ok(headers["correlation-id"], "the page reads the correlation id");
    return { status, code: headers["x-shopper-gateway-error"], headers, body };
  };
  const statusAndCode = async (url, init) => {
    const { status, code } = await refusal(url, init);
    return [status, code];
  };

  assert.deepEqual(await statusAndCode(products), [401, "token_missing"]);
  assert.deepEqual(await statusAndCode(products, { headers: { authorization: "Bearer x" } }), [401, "token_invalid"]);
  assert.deepEqual(await statusAndCode(`${gateway}/no/such/operation`), [404, "operation_unknown"]);
  assert.deepEqual(await statusAndCode(products, { method: "POST" }), [405, "method_not_allowed"]);
  const missing = await refusal(products.replace(/products\?.*/, `products/none?siteId=${siteId}`), withToken);
  assert.deepEqual([missing.status, missing.code], [404, undefined]);

  const getProducts = { service: "api", flow: "shopper-products.getProducts", remaining: 1 };
  await inject({ ...getProducts, effect: { kind: "status", code: 429, retry_after: "7", body: '{"title":"slow down"}' } });
  const limited = await refusal(products, withToken);
  assert.deepEqual([limited.status, limited.headers["retry-after"]], [429, "7"]);
  assert.equal(limited.body, '{"title":"slow down"}');
  // The gateway repeats a GET once.
  await inject({ ...getProducts, remaining: 2, effect: { kind: "reset", at: "before" } });
  assert.equal((await refusal(products, withToken)).status, 502);
});

test("a preflight names the header that a page may not send", async () => {
  const page = await open(shopOrigin, "plain");
  const withOtherHeader = { headers: { authorization: "Bearer x", "x-on-behalf-of": "a" } };
  const messages = [];
  page.on("console", (message) => messages.push(message.text()));
  assert.deepEqual(await fetchIn(page, products, withOtherHeader), { error: "TypeError" });
  assert.ok(messages.some((text) => text.includes("x-on-behalf-of is not allowed by Access-Control-Allow-Headers")), messages.join());
});

for (const origin of foreignOrigins) {
  test(`a page at ${origin} gets nothing`, async () => {
    const page = await open(origin, "plain");
    const nothing = { error: "TypeError" };
    // Without preflight: the gateway answers, and the browser keeps the response.
    assert.deepEqual(await fetchIn(page, products), nothing);
    assert.deepEqual(await fetchIn(page, `${gateway}/callback?code=a`), nothing);
    assert.deepEqual(await fetchIn(page, login, { method: "POST", body: '{"type":"guest"}' }), nothing);
    // With preflight.
    assert.deepEqual(await fetchIn(page, login, guestLogin), nothing);
    assert.deepEqual(await fetchIn(page, products, { headers: { authorization: "Bearer x" } }), nothing);
    assert.deepEqual(await fetchIn(page, products, { credentials: "include" }), nothing);
    const opaque = await fetchIn(page, products, { mode: "no-cors" });
    assert.deepEqual(opaque, { status: 0, type: "opaque", headers: {}, body: "" });
  });
}

test("an opaque origin gets nothing", async () => {
  const page = await open(shopOrigin, "plain");
  // The origin of a sandboxed frame is `null`, even in an allowed page.
  const seen = await page.evaluate((url) => new Promise((resolve) => {
    addEventListener("message", ({ data, origin }) => resolve({ data, origin }), { once: true });
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    const script = `fetch(${JSON.stringify(url)}).then(() => "read", (error) => error.name).then((seen) => parent.postMessage(seen, "*"))`;
    frame.srcdoc = `<script>${script}</script>`;
    document.body.append(frame);
  }), products);
  assert.deepEqual(seen, { data: "TypeError", origin: "null" });
});
