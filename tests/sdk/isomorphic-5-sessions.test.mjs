// commerce-sdk-isomorphic 5.6.0 where logins at SLAS are sessions of the gateway. Owns that an app whose token the
// gateway renews behind its back can go on as the SDK lets it: refresh with the token of its login, and log out.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { gateway, parametersOf, privateClient, product, publicClient, redirectURI, refusalOf, shopper } from "./shop.mjs";

const { ShopperBasketsV2, ShopperLogin, helpers } = createRequire(import.meta.url)("isomorphic-5");

const seconds = Number(process.env.TOKEN_SECONDS);
const storefront = `${gateway}/mobify/slas/private`;
const placeholder = "_PLACEHOLDER_PROXY-PWA_KIT_SLAS_CLIENT_SECRET";

function basketsOf(clientId, token) {
  const headers = { authorization: `Bearer ${token}` };
  return new ShopperBasketsV2({ proxy: gateway, parameters: parametersOf(clientId), headers, throwOnBadResponse: true });
}

for (const [kind, clientId, proxy, credentials] of [
  ["public", publicClient, gateway, {}],
  ["private", privateClient, storefront, { clientSecret: placeholder }],
]) {
  test(`a registered shopper of a ${kind} client outlives the first token and goes on`, async () => {
    const slasClient = new ShopperLogin({ proxy, parameters: parametersOf(clientId), throwOnBadResponse: true });
    const login = await helpers.loginRegisteredUserB2C({
      slasClient,
      credentials: { ...shopper, ...credentials },
      parameters: { redirectURI },
    });
    const { basketId } = await basketsOf(clientId, login.access_token).createBasket({ body: {} });
    const parameters = { basketId };
    await sleep((seconds + 0.5) * 1000);

    // The first token has ended; the gateway has refreshed with the login's refresh token.
    const body = [{ productId: product, quantity: 1 }];
    await basketsOf(clientId, login.access_token).addItemToBasket({ parameters, body });

    const refreshToken = login.refresh_token;
    const fresh = await helpers.refreshAccessToken({ slasClient, parameters: { refreshToken }, credentials });
    assert.equal(fresh.customer_id, login.customer_id);
    const baskets = basketsOf(clientId, fresh.access_token);
    assert.equal((await baskets.getBasket({ parameters })).productItems[0].productId, product);
    await baskets.deleteBasket({ parameters }); // a shopper may have only so many

    await helpers.logout({ slasClient, parameters: { accessToken: fresh.access_token, refreshToken } });
    for (const token of [refreshToken, fresh.refresh_token]) {
      const again = helpers.refreshAccessToken({ slasClient, parameters: { refreshToken: token }, credentials });
      assert.equal((await refusalOf(again)).problem.message, "invalid refresh_token");
    }
  });
}
