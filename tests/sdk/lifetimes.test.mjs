// commerce-sdk-isomorphic 1.13.1 in an app that logs in once and never refreshes, while its tokens
// live TOKEN_SECONDS. Owns the promise that its basket lives on, for LIFETIMES of its token.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import sdk from "isomorphic-1";
import { clients, gateway, parametersOf, product } from "./shop.mjs";

const { ShopperBaskets, ShopperCustomers } = sdk;
const end = Date.now() + Number(process.env.TOKEN_SECONDS) * Number(process.env.LIFETIMES) * 1000;

// Side by side: each takes all the lifetimes.
describe("an app that logs in once", { concurrency: true }, () => {
  for (const [kind, clientId] of Object.entries(clients)) {
    test(`keeps its basket with a ${kind}`, () => keepsItsBasket(clientId));
  }
});

async function keepsItsBasket(clientId) {
  const config = { proxy: gateway, parameters: parametersOf(clientId), throwOnBadResponse: true };
  const login = await new ShopperCustomers(config).authorizeCustomer({ body: { type: "guest" } }, true);
  const headers = { authorization: login.headers.get("Authorization") };
  const baskets = new ShopperBaskets({ ...config, headers });
  const { basketId } = await baskets.createBasket({ body: {} });
  await baskets.addItemToBasket({ parameters: { basketId }, body: [{ productId: product, quantity: 1 }] });
  while (Date.now() < end) {
    await pause(1000);
    const basket = await baskets.getBasket({ parameters: { basketId } });
    assert.equal(basket.productItems[0].productId, product);
  }
}
