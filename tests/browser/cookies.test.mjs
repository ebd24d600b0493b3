// commerce-sdk-isomorphic 5.6.0 and @salesforce/commerce-sdk-react 5.4.0, unmodified, with sessions in HttpOnly cookies, in pages that
// have their origin in common with the gateway. The functions given to `evaluate` run in the page.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, test } from "node:test";
import { browserWith, shows } from "./browser.mjs";
import { forwarded, serve } from "./edge.mjs";
import { ledger, product, sdkConfig, shopper } from "./shop.mjs";
import { cookiesOf, description, globals, origin, plainOrigin, rendered, secretCookies, storefronts } from "./storefronts.mjs";

const open = await browserWith("cookies", "react");
const { ShopperBasketsV2, ShopperLogin, ShopperSearch, helpers } = createRequire(import.meta.url)("isomorphic-5");

/** What the edge has forwarded since the last call: method, last segment of the path, and status. */
function seen() {
  return forwarded.splice(0).map(({ method, path, status }) => `${method} ${path.split("/").pop()} ${status}`);
}

for (const storefront of storefronts) {
  test(`isomorphic SDK, ${description(storefront)}: a guest shops and becomes a registered shopper`, async () => {
    const names = secretCookies(storefront);
    const page = await open(origin, "cookies", globals(storefront));

    const guest = await page.evaluate(() => window.shop.logInGuest());
    assert.deepEqual([guest.access_token, guest.refresh_token], [undefined, undefined]);
    assert.ok(guest.usid && guest.customer_id);
    assert.equal(await page.evaluate(() => window.shop.cookie("customer_type")), "guest");
    const cookies = await cookiesOf(page);
    assert.ok(cookies.get(names.access).httpOnly && cookies.get(names.guest).httpOnly && !cookies.has(names.registered));

    const items = await page.evaluate(fillBasket, product);
    assert.deepEqual(items, [[product, 2]]);

    const registered = await page.evaluate((shopper) => window.shop.logIn(shopper), shopper);
    assert.notEqual(registered.customer_id, guest.customer_id);
    assert.equal(await page.evaluate(() => window.shop.cookie("customer_type")), "registered");
    const after = await cookiesOf(page);
    assert.ok(after.has(names.registered) && !after.has(names.guest));
    assert.equal(await page.evaluate(profile), shopper.username);

    // The page's own refresh.
    await page.evaluate(() => window.shop.refresh());
    const refreshed = await cookiesOf(page);
    assert.notEqual(refreshed.get(names.access).value, after.get(names.access).value);
    assert.equal(await page.evaluate(profile), shopper.username);

    // The gateway's: the call itself brings a new access cookie.
    await page.context().clearCookies({ name: names.access });
    seen();
    assert.equal(await page.evaluate(profile), shopper.username);
    assert.equal(forwarded.length, 1);
    assert.ok(forwarded[0].status === 200 && forwarded[0].headers["set-cookie"]);
    const renewed = await cookiesOf(page);
    assert.ok(renewed.get(names.access).httpOnly);

    await page.evaluate(() => window.shop.logOut());
    const left = [...(await cookiesOf(page)).keys()].filter((name) => name.endsWith(`_${storefront.siteId}`));
    assert.deepEqual(left, []);
    assert.deepEqual(await page.evaluate(profile), { status: 400, message: "access_token_cookie_missing" });
    // A thief who has copied the cookies before.
    await page.context().addCookies([...renewed.values()]);
    // A token is no longer accepted, and an id no longer stands for one.
    assert.equal((await page.evaluate(profile)).status, storefront.isReference ? 400 : 401);
    await page.context().clearCookies({ name: names.access });
    assert.deepEqual(await page.evaluate(profile), { status: 400, message: "access_token_cookie_missing" });
    assert.equal((await page.evaluate(refusedRefresh)).message, "invalid refresh_token");
    assert.deepEqual(page.scriptErrors, []);
  });

  test(`React SDK, ${description(storefront)}: a shopper searches, fills a basket, logs in and logs out`, async () => {
    const names = secretCookies(storefront);
    const page = await open(origin, "react", globals(storefront));
    await shows(page, "#customer-type", "guest");
    const guestId = await page.textContent("#customer-id");
    assert.ok(guestId);

    await page.fill("[aria-label=Search]", "tie");
    const tie = page.locator("li", { hasText: "Striped Silk Tie" });
    await tie.getByRole("button").click();
    await shows(page, "#basket", "1 Striped Silk Tie");

    await page.fill("[aria-label=Login]", shopper.username);
    await page.fill("[aria-label=Password]", "wrong");
    await page.click("text=Log in");
    await shows(page, "#login-error", "401 Unauthorized");
    await page.fill("[aria-label=Password]", shopper.password);
    await page.click("text=Log in");
    await shows(page, "#customer-type", "registered");
    const registeredId = await page.textContent("#customer-id");
    assert.notEqual(registeredId, guestId);

    // A new page finds the session in the cookies, and its first call renews the access cookie.
    await page.context().clearCookies({ name: names.access });
    seen();
    await page.reload();
    await shows(page, "#customer-type", "registered");
    assert.equal(await page.textContent("#customer-id"), registeredId);
    await page.fill("[aria-label=Search]", "scarf");
    await page.locator("li", { hasText: "Classic Wrap Scarf" }).waitFor();
    const requests = seen();
    assert.ok(requests.length > 0 && requests.every((line) => line.endsWith("200") && !line.includes("token")), requests.join());
    assert.ok((await cookiesOf(page)).has(names.access));

    await page.click("text=Log out");
    await shows(page, "#customer-type", "guest");
    await shows(page, "#basket", "empty");
    assert.notEqual(await page.textContent("#customer-id"), registeredId);
    assert.deepEqual(page.scriptErrors, []);
  });
}

async function fillBasket(product) {
  const { baskets, search } = window.shop;
  const found = await search.productSearch({ parameters: { q: "tie" } });
  if (!found.hits.some((hit) => hit.productName === "Striped Silk Tie")) throw new Error(JSON.stringify(found));
  const { basketId } = await baskets.createBasket({ body: {} });
  const basket = await baskets.addItemToBasket({ parameters: { basketId }, body: [{ productId: product, quantity: 2 }] });
  return basket.productItems.map(({ productId, quantity }) => [productId, quantity]);
}

/** The login of the shopper, or the error that the page gets. */
function profile() {
  const parameters = { customerId: window.customerId ??= window.shop.cookie("customer_id") };
  return window.shop.customers.getCustomer({ parameters }).then(
    ({ login }) => login,
    async ({ response }) => ({ status: response.status, message: (await response.json()).message }),
  );
}

function refusedRefresh() {
  return window.shop.refresh().then(
    () => ({ status: 200 }),
    async ({ response }) => ({ status: response.status, message: (await response.json()).message }),
  );
}

test("`Secure` and `__Host-` cookies work on a developer's machine without TLS", async () => {
  for (const storefront of storefronts) {
    const page = await open(plainOrigin, "cookies", globals(storefront, plainOrigin));
    await page.evaluate(() => window.shop.logInGuest());
    const names = secretCookies(storefront);
    const cookies = await cookiesOf(page);
    assert.ok(cookies.has(names.access) && cookies.has(names.guest), [...cookies.keys()].join());
    assert.deepEqual(await page.evaluate(fillBasket, product), [[product, 2]]);
  }
});

test("API calls of pages name the session's server, which the browser has in a cookie", async () => {
  const calls = (await ledger()).filter(({ service }) => service === "api");
  assert.ok(calls.length > 0);
  const without = calls.filter(({ headers }) => !headers.some(([name]) => name === "sfdc_dwsid"));
  assert.deepEqual(without.map(({ flow }) => flow), []);
});

for (const storefront of [...storefronts.filter(({ isReference }) => !isReference), rendered]) {
  test(`isomorphic SDK on a server, ${description(storefront)}: a page is rendered for a guest`, async () => {
    const edge = await serve(new Map());
    after(() => edge.close());
    const { siteId, clientId, isPrivate, isReference } = storefront;
    const { providerConfig } = globals(storefront, `http://127.0.0.1:${edge.address().port}`);
    const config = (proxy, headers) => ({
      ...sdkConfig,
      proxy,
      headers: { ...providerConfig.headers, ...headers },
      parameters: { ...sdkConfig.parameters, siteId, clientId },
    });
    const { privateClientProxyEndpoint, publicClientProxyEndpoint, proxy } = providerConfig;
    const slasClient = new ShopperLogin(config(isPrivate ? privateClientProxyEndpoint : publicClientProxyEndpoint));
    const enableHttpOnlySessionCookies = true;
    const login = isPrivate
      ? helpers.loginGuestUserPrivate({ slasClient, credentials: { clientSecret: "none" }, parameters: {}, enableHttpOnlySessionCookies })
      : helpers.loginGuestUser({ slasClient, parameters: { redirectURI: `${origin}/callback` }, enableHttpOnlySessionCookies });
    // The SDK reads the tokens from `Set-Cookie`: with reference cookies, ids in their place.
    const { access_token: token, refresh_token: refreshToken, customer_id: customerId } = await login;
    assert.ok(token && refreshToken && customerId);
    assert.equal(token.split(".").length, isReference ? 1 : 3);
    const bearer = { authorization: `Bearer ${token}` };
    const found = await new ShopperSearch(config(proxy, bearer)).productSearch({ parameters: { q: "tie" } });
    assert.ok(found.hits.some(({ productName }) => productName === "Striped Silk Tie"));
    const basket = await new ShopperBasketsV2(config(proxy, bearer)).createBasket({ body: {} });
    assert.equal(basket.customerInfo?.customerId, customerId);
  });
}
