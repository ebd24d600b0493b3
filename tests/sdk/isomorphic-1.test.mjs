// commerce-sdk-isomorphic 1.13.1, a storefront SDK from before the logins were removed. Owns what
// such an app does from the first guest to the logout; only `proxy` names the gateway.

import assert from "node:assert/strict";
import { test } from "node:test";
import sdk from "isomorphic-1";
import { basic, claimsOf, clients, gateway, parametersOf, product, refusalOf, shopper } from "./shop.mjs";

const { ShopperBaskets, ShopperCustomers } = sdk;

function configOf(clientId, authorization) {
  return { proxy: gateway, parameters: parametersOf(clientId), headers: authorization ? { authorization } : {} };
}

/** Logs in as the SDK's own guide did: the raw response, the token from its header. */
async function login(clientId, type, authorization) {
  const response = await new ShopperCustomers(configOf(clientId, authorization)).authorizeCustomer(
    { body: { type } },
    true,
  );
  assert.equal(response.status, 200, await response.clone().text());
  const token = response.headers.get("Authorization");
  assert.match(token, /^Bearer [\w-]+\.[\w-]+\.[\w-]+$/);
  return { token, customer: await response.json() };
}

for (const [kind, clientId] of Object.entries(clients)) {
  test(`a guest logs in with a ${kind}`, async () => {
    const { token, customer } = await login(clientId, "guest");
    assert.deepEqual(Object.keys(customer).sort(), ["authType", "customerId", "preferredLocale"]);
    assert.equal(customer.authType, "guest");
    assert.ok(claimsOf(token).sub.includes(`::scid:${clientId}::`));
    assert.ok(claimsOf(token).isb.includes(`gcid:${customer.customerId}`));
  });

  test(`the document comes without asking for the raw response, with a ${kind}`, async () => {
    const customer = await new ShopperCustomers(configOf(clientId)).authorizeCustomer({ body: { type: "guest" } });
    assert.equal(customer.authType, "guest");
  });

  test(`two guests are two customers with a ${kind}`, async () => {
    const [first, second] = [await login(clientId, "guest"), await login(clientId, "guest")];
    assert.notEqual(first.customer.customerId, second.customer.customerId);
  });

  test(`a registered shopper logs in with a ${kind}, reads the profile and changes it`, async () => {
    const { token, customer } = await login(clientId, "credentials", basic(shopper));
    assert.equal(customer.authType, "registered");
    assert.equal(customer.login, shopper.username);
    assert.ok(claimsOf(token).isb.includes(`rcid:${customer.customerId}`));

    const customers = new ShopperCustomers(configOf(clientId, token));
    const parameters = { customerId: customer.customerId };
    assert.deepEqual(await customers.getCustomer({ parameters }), customer);

    const firstName = `Ada of the ${kind}`;
    const changed = await customers.updateCustomer({ parameters, body: { firstName } });
    assert.equal(changed.firstName, firstName);
    assert.equal((await customers.getCustomer({ parameters })).firstName, firstName);
  });

  test(`a wrong password is the error that apps know, with a ${kind}`, async () => {
    const config = configOf(clientId, basic({ ...shopper, password: "wrong" }));
    const body = { type: "credentials" };

    // By default the SDK gives the error's document as the result.
    const problem = await new ShopperCustomers(config).authorizeCustomer({ body });
    assert.equal(problem.title, "Authentication Failed");
    assert.equal(problem.detail, `Customer authentication based on ${shopper.username} failed.`);
    assert.match(problem.type, /^https:.*\/errors\/authentication-failed$/);
    assert.equal(problem.customerId, undefined);

    // Apps that asked for exceptions get one with the response in it.
    const throwing = new ShopperCustomers({ ...config, throwOnBadResponse: true });
    const refusal = await refusalOf(throwing.authorizeCustomer({ body }));
    assert.equal(refusal.error.message, "401 Unauthorized");
    assert.equal(refusal.response.status, 401);
    assert.equal(refusal.response.headers.get("Authorization"), null);
    assert.deepEqual(refusal.problem, problem);
  });

  test(`a guest's basket lives on after the refresh, with a ${kind}`, async () => {
    const { token, customer } = await login(clientId, "guest");
    const baskets = new ShopperBaskets(configOf(clientId, token));
    const basket = await baskets.createBasket({ body: {} });
    assert.equal(basket.customerInfo.customerId, customer.customerId);

    const parameters = { basketId: basket.basketId };
    const filled = await baskets.addItemToBasket({ parameters, body: [{ productId: product, quantity: 2 }] });
    assert.deepEqual(
      filled.productItems.map((item) => [item.productId, item.quantity]),
      [[product, 2]],
    );

    const refreshed = await login(clientId, "refresh", token);
    assert.equal(refreshed.customer.customerId, customer.customerId);
    assert.notEqual(refreshed.token, token);
    assert.ok(claimsOf(refreshed.token).exp >= claimsOf(token).exp);

    const found = await new ShopperBaskets(configOf(clientId, refreshed.token)).getBasket({ parameters });
    assert.deepEqual(found.productItems, filled.productItems);
  });

  test(`a registered shopper refreshes and logs out, with a ${kind}`, async () => {
    const { token, customer } = await login(clientId, "credentials", basic(shopper));
    const refreshed = await login(clientId, "refresh", token);
    assert.deepEqual(refreshed.customer, customer);

    const customers = new ShopperCustomers(configOf(clientId, refreshed.token));
    const response = await customers.invalidateCustomerAuth({}, true);
    assert.equal(response.status, 204);
    assert.equal(await response.text(), "");

    for (const ended of [token, refreshed.token]) {
      const after = new ShopperCustomers({ ...configOf(clientId, ended), throwOnBadResponse: true });
      const parameters = { customerId: customer.customerId };
      await assert.rejects(after.getCustomer({ parameters }), { message: "401 Unauthorized" });
      await assert.rejects(after.authorizeCustomer({ body: { type: "refresh" } }), { message: "401 Unauthorized" });
    }
  });

  test(`a guest logs out with a ${kind}`, async () => {
    const { token } = await login(clientId, "guest");
    const customers = new ShopperCustomers({ ...configOf(clientId, token), throwOnBadResponse: true });
    assert.equal(await customers.invalidateCustomerAuth({}), undefined);
    await assert.rejects(customers.invalidateCustomerAuth({}), { message: "401 Unauthorized" });
  });
}

test("a custom query parameter of a hook does not disturb the login", async () => {
  const customers = new ShopperCustomers(configOf(clients["public client"]));
  const parameters = { c_campaign: "spring, summer" };
  const customer = await customers.authorizeCustomer({ parameters, body: { type: "guest" } });
  assert.equal(customer.authType, "guest");
});

test("a client that the gateway does not know is an error that says so", async () => {
  const customers = new ShopperCustomers({ ...configOf("unknown"), throwOnBadResponse: true });
  const { error, problem } = await refusalOf(customers.authorizeCustomer({ body: { type: "guest" } }));
  assert.equal(error.message, "400 Bad Request");
  assert.match(problem.detail, /clientId/);
});
