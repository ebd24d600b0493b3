// commerce-sdk 2.15.0, the SDK of Node servers with the removed logins. Owns what such a server does with
// them; it names the gateway by a base URI for each API, and caches and retries in a client of its own.

import assert from "node:assert/strict";
import { test } from "node:test";
import sdk from "commerce-sdk";
import { basic, claimsOf, clients, gateway, parametersOf, product, refusalOf, shopper } from "./shop.mjs";

const { ShopperBaskets } = sdk.Checkout;
const { ShopperCustomers } = sdk.Customer;

function configOf(clientId, api, authorization) {
  return {
    baseUri: `${gateway}/${api}/{version}`,
    parameters: parametersOf(clientId),
    headers: authorization ? { authorization } : {},
  };
}

const customersOf = (clientId, token) => new ShopperCustomers(configOf(clientId, "customer/shopper-customers", token));
const basketsOf = (clientId, token) => new ShopperBaskets(configOf(clientId, "checkout/shopper-baskets", token));

/** Logs in by the SDK's own helper, which reads the token from the header and decodes it. */
async function login(clientId, type, authorization) {
  const config = configOf(clientId, "customer/shopper-customers", authorization);
  const token = await sdk.helpers.getShopperToken(config, { type });
  return { bearer: token.getBearerHeader(), customer: token.getCustomerInfo(), decoded: token.decodedToken };
}

for (const [kind, clientId] of Object.entries(clients)) {
  test(`a guest logs in with a ${kind} and fills a basket`, async () => {
    const { bearer, customer, decoded } = await login(clientId, "guest");
    assert.equal(customer.authType, "guest");
    assert.ok(decoded.isb.includes(`gcid:${customer.customerId}`));

    const baskets = basketsOf(clientId, bearer);
    const { basketId } = await baskets.createBasket({ body: {} });
    const parameters = { basketId };
    await baskets.addItemToBasket({ parameters, body: [{ productId: product, quantity: 1 }] });
    const found = await baskets.getBasket({ parameters });
    assert.equal(found.productItems[0].productId, product);
    assert.equal(found.customerInfo.customerId, customer.customerId);
  });

  test(`a registered shopper logs in with a ${kind}, reads the profile and changes it`, async () => {
    const { bearer, customer } = await login(clientId, "credentials", basic(shopper));
    assert.equal(customer.login, shopper.username);

    const customers = customersOf(clientId, bearer);
    const parameters = { customerId: customer.customerId };
    assert.deepEqual(await customers.getCustomer({ parameters }), customer);
    const lastName = `Shopper of the ${kind}`;
    assert.equal((await customers.updateCustomer({ parameters, body: { lastName } })).lastName, lastName);
    assert.equal((await customers.getCustomer({ parameters })).lastName, lastName);
  });

  test(`a wrong password is the exception that servers know, with a ${kind}`, async () => {
    const wrong = login(clientId, "credentials", basic({ ...shopper, password: "wrong" }));
    const { error, problem } = await refusalOf(wrong);
    assert.equal(error.message, "401 Unauthorized");
    assert.equal(problem.title, "Authentication Failed");
    assert.equal(problem.detail, `Customer authentication based on ${shopper.username} failed.`);
  });

  test(`a shopper refreshes and logs out, with a ${kind}`, async () => {
    const first = await login(clientId, "credentials", basic(shopper));
    const second = await login(clientId, "refresh", first.bearer);
    assert.notEqual(second.bearer, first.bearer);
    assert.equal(second.customer.customerId, first.customer.customerId);
    assert.ok(claimsOf(second.bearer).exp >= claimsOf(first.bearer).exp);

    const response = await customersOf(clientId, second.bearer).invalidateCustomerAuth({}, true);
    assert.equal(response.status, 204);
    const parameters = { customerId: first.customer.customerId };
    await assert.rejects(customersOf(clientId, second.bearer).getCustomer({ parameters }), {
      message: "401 Unauthorized",
    });
    await assert.rejects(login(clientId, "refresh", second.bearer), { message: "401 Unauthorized" });
  });
}
