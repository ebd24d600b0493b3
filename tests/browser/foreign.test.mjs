// Pages of other origins, in a browser whose shopper is logged in with cookies, and what they can do with them.
// The functions given to `evaluate` run in the page.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browserWith } from "./browser.mjs";
import { forwarded } from "./edge.mjs";
import { foreignOrigins, ledger, organizationId, product, shopper } from "./shop.mjs";
import { actorOrigin, cookiesOf, description, globals, origin, readerOrigin, storefronts } from "./storefronts.mjs";

const open = await browserWith("cookies", "plain");

const foreign = foreignOrigins.map((origin) => origin.replace("http:", "https:"));
const FORM = "application/x-www-form-urlencoded";

/** The requests that a page would send to act for the shopper, to end the session, or to replace it. */
function attacks({ siteId, clientId, isPrivate }) {
  const slas = `${origin}/mobify/slas/${isPrivate ? "private" : "public"}/shopper/auth/v1/organizations/${organizationId}/oauth2`;
  const api = `${origin}/mobify/proxy/api`;
  const products = `${api}/product/shopper-products/v1/organizations/${organizationId}/products?siteId=${siteId}&ids=${product}`;
  const baskets = `${api}/checkout/shopper-baskets/v2/organizations/${organizationId}/baskets?siteId=${siteId}`;
  const logout = `${slas}/logout?client_id=${clientId}&channel_id=${siteId}&refresh_token=`;
  const form = (grant) => `grant_type=${grant}&refresh_token=&client_id=${clientId}&channel_id=${siteId}`;
  const token = `${slas}/token`;
  const [site, grant] = [{ "x-site-id": siteId }, { "x-grant-type": "refresh_token" }];
  return {
    read: [products, { headers: site }],
    write: [baskets, { method: "POST", headers: { ...site, "content-type": "application/json" }, body: "{}" }],
    refresh: [token, { method: "POST", headers: { ...site, ...grant, "content-type": FORM }, body: form("refresh_token") }],
    login: [token, { method: "POST", headers: { ...site, "content-type": FORM }, body: form("client_credentials") }],
    logout: [logout, { headers: site }],
    // Without preflight.
    "simple read": [products, {}],
    "simple write": [baskets, { method: "POST", body: "{}" }],
    "simple refresh": [token, { method: "POST", headers: { "content-type": FORM }, body: form("refresh_token") }],
    "simple login": [token, { method: "POST", headers: { "content-type": FORM }, body: form("client_credentials") }],
    "simple logout": [logout, {}],
  };
}

/** What the page of a tab gets. */
function fetchIn(tab, [url, init], more) {
  return tab.evaluate(async ([url, init]) => {
    try {
      const response = await fetch(url, init);
      return { status: response.status, type: response.type, body: await response.text() };
    } catch (error) {
      return error.name;
    }
  }, [url, { ...init, ...more }]);
}

/** Logs the shopper in. Returns the tab, and a check that nothing has happened to the session since. */
async function loggedIn(storefront) {
  const shop = await open(origin, "cookies", globals(storefront));
  const { customer_id: customerId } = await shop.evaluate((shopper) => window.shop.logIn(shopper), shopper);
  const values = async () => [...(await cookiesOf(shop))].map(([name, { value }]) => `${name}=${value}`).sort();
  const [cookies, requests] = [await values(), (await ledger()).length];
  return {
    shop,
    assertNothingHappened: async () => {
      assert.deepEqual(await values(), cookies);
      const seen = (await ledger()).slice(requests).map(({ flow, status, headers }) => ({ flow, status, headers }));
      const withAuthority = seen.filter(({ headers }) => headers.some(([name]) => name === "authorization" || name === "cookie"));
      assert.deepEqual(withAuthority, []);
      assert.deepEqual(seen.filter(({ status }) => status < 400), []);
      const profile = (parameters) => window.shop.customers.getCustomer({ parameters }).then(({ login }) => login);
      assert.equal(await shop.evaluate(profile, { customerId }), shopper.username);
    },
  };
}

// The kind of client makes no difference.
for (const storefront of storefronts.filter(({ isPrivate }) => isPrivate)) {
  for (const foreignOrigin of foreign) {
    test(`${description(storefront)}: a page at ${foreignOrigin} gets nothing and changes nothing`, async () => {
      const { shop, assertNothingHappened } = await loggedIn(storefront);
      const evil = await open(foreignOrigin, "plain", {}, shop);
      for (const [name, attack] of Object.entries(attacks(storefront))) {
        const sent = forwarded.length;
        assert.equal(await fetchIn(evil, attack, { credentials: "include" }), "TypeError", name);
        const opaque = await fetchIn(evil, attack, { credentials: "include", mode: "no-cors" });
        assert.ok(opaque === "TypeError" || opaque.type === "opaque", name);
        const answers = forwarded.slice(sent);
        assert.equal(answers.length, 2, name);
        for (const { method, status, headers } of answers) {
          const code = headers["x-shopper-gateway-error"];
          if (method === "OPTIONS") assert.deepEqual([status, code], [403, "origin_not_allowed"], name);
          assert.ok(status >= 400 && !("set-cookie" in headers), `${name}: ${method} ${status} ${code}`);
        }
      }
      await assertNothingHappened();
    });

    test(`${description(storefront)}: links and forms of a page at ${foreignOrigin} change nothing`, async () => {
      const { shop, assertNothingHappened } = await loggedIn(storefront);
      const { "simple logout": [logout], "simple refresh": [token, { body }] } = attacks(storefront);
      const links = await open(foreignOrigin, "plain", {}, shop);
      await Promise.all([links.waitForNavigation(), links.evaluate((url) => location.assign(url), logout)]);
      const forms = await open(foreignOrigin, "plain", {}, shop);
      await Promise.all([forms.waitForNavigation(), forms.evaluate(submit, { token, body })]);
      await assertNothingHappened();
    });
  }

  test(`${description(storefront)}: an allowed origin acts only with \`credentials\``, async () => {
    const { shop, assertNothingHappened } = await loggedIn(storefront);
    const { read, refresh, logout } = attacks(storefront);
    const reader = await open(readerOrigin, "plain", {}, shop);
    for (const attack of [read, refresh, logout]) {
      assert.equal(await fetchIn(reader, attack, { credentials: "include" }), "TypeError");
    }
    const { status, body } = await fetchIn(reader, read);
    assert.deepEqual([status, body], [400, '{"message":"access_token_cookie_missing"}']);
    await assertNothingHappened();

    const actor = await open(actorOrigin, "plain", {}, shop);
    const answer = await fetchIn(actor, read, { credentials: "include" });
    assert.deepEqual([answer.status, JSON.parse(answer.body).data[0].id], [200, product]);
    assert.equal((await fetchIn(actor, refresh, { credentials: "include" })).status, 200);
  });
}

/** Posts a form to another page. */
function submit({ token, body }) {
  const form = Object.assign(document.createElement("form"), { method: "POST", action: token });
  for (const [name, value] of new URLSearchParams(body)) {
    form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
  document.body.append(form);
  form.submit();
}
