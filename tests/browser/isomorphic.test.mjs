// commerce-sdk-isomorphic 1.13.1 and 5.6.0, unmodified, in pages of other origins than the gateway's.
// The functions given to `evaluate` run in the page, and return what the page sees.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browserWith } from "./browser.mjs";
import { appOrigin, ledger, product, redirectURI, sdkConfig, shopOrigin, shopper } from "./shop.mjs";

const open = await browserWith("isomorphic-1", "isomorphic-5");

for (const [sdk, version] of [
  ["isomorphic-1", "1.13.1"],
  ["isomorphic-5", "5.6.0"],
]) {
  for (const origin of [shopOrigin, appOrigin]) {
    test(`SDK ${version} at ${origin}: a guest shops, refreshes and becomes a registered shopper`, async () => {
      const page = await open(origin, sdk);
      const seen = await page.evaluate(journey, { sdkConfig, redirectURI, shopper, product });

      assert.equal(seen.origin, origin);
      assert.ok(seen.guest.access_token && seen.guest.refresh_token && seen.guest.usid);
      assert.ok(seen.hits.includes("Striped Silk Tie"), `found ${seen.hits}`);
      assert.deepEqual(seen.items, [[product, 2]]);
      assert.notEqual(seen.refreshed.access_token, seen.guest.access_token);
      assert.equal(seen.refreshed.customer_id, seen.guest.customer_id);
      assert.deepEqual(seen.itemsAfterRefresh, [[product, 2]]);
      assert.notEqual(seen.registered.customer_id, seen.guest.customer_id);
      assert.equal(seen.profile.login, shopper.username);
      assert.deepEqual(seen.afterLogout, { status: 401, code: "token_invalid" });
      assert.deepEqual(page.scriptErrors, []);
    });
  }
}

/** What a shop does in its life, by an SDK. */
async function journey({ sdkConfig, redirectURI, shopper, product }) {
  const { ShopperBaskets, ShopperCustomers, ShopperLogin, ShopperSearch, logInGuest, logIn, refresh, logOut } = window.shop;
  const slas = new ShopperLogin(sdkConfig);
  const api = (Api, token) => new Api({ ...sdkConfig, headers: { authorization: `Bearer ${token}` } });
  const itemsOf = (basket) => basket.productItems.map(({ productId, quantity }) => [productId, quantity]);

  const guest = await logInGuest(slas, redirectURI);
  const found = await api(ShopperSearch, guest.access_token).productSearch({ parameters: { q: "tie" } });
  const baskets = api(ShopperBaskets, guest.access_token);
  const { basketId } = await baskets.createBasket({ body: {} });
  const parameters = { basketId };
  const basket = await baskets.addItemToBasket({ parameters, body: [{ productId: product, quantity: 2 }] });

  const refreshed = await refresh(slas, guest.refresh_token);
  const afterRefresh = await api(ShopperBaskets, refreshed.access_token).getBasket({ parameters });

  const registered = await logIn(slas, redirectURI, shopper);
  const customers = api(ShopperCustomers, registered.access_token);
  const customer = { parameters: { customerId: registered.customer_id } };
  const profile = await customers.getCustomer(customer);
  await logOut(slas, registered.access_token, registered.refresh_token);
  const refusal = await customers.getCustomer(customer).then(
    () => ({ status: 200 }),
    ({ response }) => ({ status: response.status, code: response.headers.get("x-shopper-gateway-error") }),
  );
  return {
    origin: location.origin,
    guest,
    hits: found.hits.map((hit) => hit.productName),
    items: itemsOf(basket),
    refreshed,
    itemsAfterRefresh: itemsOf(afterRefresh),
    registered,
    profile,
    afterLogout: refusal,
  };
}

test("SDK 1.13.1: the deprecated logins work, and the page reads the token", async () => {
  const page = await open(shopOrigin, "isomorphic-1");
  const seen = await page.evaluate(async ({ sdkConfig, shopper }) => {
    const logIn = async (type, authorization) => {
      const headers = authorization ? { authorization } : {};
      const customers = new window.shop.ShopperCustomers({ ...sdkConfig, headers });
      const response = await customers.authorizeCustomer({ body: { type } }, true);
      return { token: response.headers.get("Authorization"), customer: await response.json() };
    };
    const guest = await logIn("guest");
    const refreshed = await logIn("refresh", guest.token);
    const registered = await logIn("credentials", `Basic ${btoa(`${shopper.username}:${shopper.password}`)}`);
    const customers = new window.shop.ShopperCustomers({ ...sdkConfig, headers: { authorization: registered.token } });
    const customer = { parameters: { customerId: registered.customer.customerId } };
    const profile = await customers.getCustomer(customer);
    const logout = await customers.invalidateCustomerAuth({}, true);
    const after = await customers.getCustomer(customer).then(() => 200, ({ response }) => response.status);
    return { guest, refreshed, registered, profile, logout: logout.status, after };
  }, { sdkConfig, shopper });

  for (const { token } of [seen.guest, seen.refreshed, seen.registered]) {
    assert.match(token, /^Bearer [\w-]+\.[\w-]+\.[\w-]+$/);
  }
  assert.equal(seen.guest.customer.authType, "guest");
  assert.equal(seen.refreshed.customer.customerId, seen.guest.customer.customerId);
  assert.equal(seen.registered.customer.login, shopper.username);
  assert.deepEqual(seen.profile, seen.registered.customer);
  assert.deepEqual([seen.logout, seen.after], [204, 401]);
});

test("Salesforce sees no preflight", async () => {
  const methods = new Set((await ledger()).map(({ method }) => method));
  assert.ok(methods.has("GET") && methods.has("POST"), [...methods].join());
  assert.ok(!methods.has("OPTIONS"));
});
