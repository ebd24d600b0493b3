// What shops built on the removed logins, from end to end, with both SDKs of that time: register, order for a
// shopper, reset a password, keep a session (see also lifetimes.test.mjs). Owns the order of the calls; an SDK
// knows the gateway by its address and nothing else.

import assert from "node:assert/strict";
import { test } from "node:test";
import sdk2 from "commerce-sdk";
import sdk1 from "isomorphic-1";
import { basic, caller, claimsOf, clients, gateway, parametersOf, product, publicClient, shopper } from "./shop.mjs";

/** The APIs of an SDK, made for an Authorization and perhaps more header fields. */
const sdks = {
  "isomorphic 1": (authorization, more = {}) => {
    const headers = { ...(authorization && { authorization }), ...more };
    const config = { proxy: gateway, parameters: parametersOf(publicClient), headers, throwOnBadResponse: true };
    return {
      customers: new sdk1.ShopperCustomers(config),
      baskets: new sdk1.ShopperBaskets(config),
      orders: new sdk1.ShopperOrders(config),
    };
  },
  "node 2": (authorization, more = {}) => {
    const of = (api) => ({
      baseUri: `${gateway}/${api}/{version}`,
      parameters: parametersOf(publicClient),
      headers: { ...(authorization && { authorization }), ...more },
    });
    return {
      customers: new sdk2.Customer.ShopperCustomers(of("customer/shopper-customers")),
      baskets: new sdk2.Checkout.ShopperBaskets(of("checkout/shopper-baskets")),
      orders: new sdk2.Checkout.ShopperOrders(of("checkout/shopper-orders")),
      system: new sdk2.Checkout.Orders(of("checkout/orders")),
    };
  },
};

const address = { firstName: "Ada", lastName: "Shopper", address1: "1 Street", city: "Woburn", countryCode: "US" };

/** A basket with all that an order needs, and the order. */
async function order({ baskets, orders }) {
  const { basketId, customerInfo } = await baskets.createBasket({ body: {} });
  const parameters = { basketId };
  await baskets.addItemToBasket({ parameters, body: [{ productId: product, quantity: 2 }] });
  await baskets.updateCustomerForBasket({ parameters, body: { email: shopper.username } });
  const shipment = { ...parameters, shipmentId: "me" };
  await baskets.updateShippingAddressForShipment({ parameters: { ...shipment, useAsBilling: true }, body: address });
  await baskets.updateShippingMethodForShipment({ parameters: shipment, body: { id: "001" } });
  const card = { number: "4111111111111111", cardType: "Visa" };
  await baskets.addPaymentInstrumentToBasket({
    parameters,
    body: { paymentMethodId: "CREDIT_CARD", amount: 59.98, paymentCard: card },
  });
  const placed = await orders.createOrder({ body: { basketId } });
  assert.equal(placed.customerInfo.customerId, customerInfo.customerId);
  const found = await orders.getOrder({ parameters: { orderNo: placed.orderNo } });
  assert.deepEqual([found.orderNo, found.productItems.length], [placed.orderNo, 1]);
  return placed;
}

const bearerOf = (response) => response.headers.get("Authorization");

for (const [name, sdk] of Object.entries(sdks)) {
  test(`${name}: a guest fills a basket and becomes a customer`, async () => {
    for (const [kind, clientId] of Object.entries(clients)) {
      const parameters = { clientId };
      const login = await sdk().customers.authorizeCustomer({ parameters, body: { type: "guest" } }, true);
      const guest = sdk(bearerOf(login));
      const { basketId, customerInfo } = await guest.baskets.createBasket({ body: {} });
      assert.equal(customerInfo.customerId, (await login.json()).customerId);
      await guest.baskets.addItemToBasket({ parameters: { basketId }, body: [{ productId: product, quantity: 1 }] });

      const username = `${name} and ${kind}@example.com`.replaceAll(" ", ".");
      const password = "New!Passw0rd";
      const profile = { login: username, email: username, firstName: "Neo", lastName: "New" };
      const customer = await guest.customers.registerCustomer({ body: { password, customer: profile } });
      assert.equal(customer.authType, "registered");

      const credentials = sdk(basic({ username, password })).customers;
      const back = await credentials.authorizeCustomer({ parameters, body: { type: "credentials" } });
      assert.equal(back.customerId, customer.customerId);
    }
  });

  for (const [kind, authorization] of Object.entries(caller)) {
    test(`${name}: a trusted system with its ${kind} takes a shopper's token and places an order`, async () => {
      const body = { login: shopper.username, clientId: publicClient };
      const response = await sdk(authorization).customers.authorizeTrustedSystem({ body }, true);
      assert.equal(response.status, 200);
      const customer = await response.json();
      assert.deepEqual([customer.authType, customer.login], ["registered", shopper.username]);
      const token = bearerOf(response);
      assert.match(claimsOf(token).isb, /::tsob:ts_ext_on_behalf_of/);
      const placed = await order(sdk(token));
      assert.equal(placed.customerInfo.customerId, customer.customerId);
    });

    test(`${name}: a trusted system with its ${kind} places an order on behalf of a shopper`, async () => {
      const onBehalf = sdk(authorization, { "X-On-Behalf-Of": shopper.username });
      const placed = await order(onBehalf);
      assert.equal(placed.customerInfo.email, shopper.username);
    });

    test(`${name}: a trusted system with its ${kind} resets a password`, async () => {
      const system = sdk(authorization).customers;
      const login = "second@example.com";
      const { resetToken, email } = await system.getResetPasswordToken({ body: { login } });
      assert.equal(email, login);
      const newPassword = `N3w!password ${name} ${kind}`;
      const response = await system.resetPassword({ body: { login, resetToken, newPassword } }, true);
      assert.equal(response.status, 204);
      const credentials = sdk(basic({ username: login, password: newPassword })).customers;
      const customer = await credentials.authorizeCustomer({ body: { type: "credentials" } });
      assert.equal(customer.login, login);
    });
  }

  test(`${name}: only a permitted caller acts for a shopper`, async () => {
    const response = await sdk().customers.authorizeCustomer({ body: { type: "guest" } }, true);
    const body = { login: shopper.username, clientId: publicClient };
    for (const authorization of [undefined, bearerOf(response), basic({ username: publicClient, password: "x" })]) {
      const { customers, baskets } = sdk(authorization, { "X-On-Behalf-Of": shopper.username });
      await assert.rejects(customers.authorizeTrustedSystem({ body }), /^\w*Error: 40[13] /);
      await assert.rejects(baskets.createBasket({ body: {} }), /^\w*Error: 40[13] /);
    }
  });
}

test("node 2: orders that only a system on behalf may create", async () => {
  const { system } = sdks["node 2"](caller["bearer token"], { "X-On-Behalf-Of": shopper.username });
  const created = await system.createOrders({ body: { orderNo: "imported-1", currency: "USD" } });
  assert.ok(created, "an order came back");
});
