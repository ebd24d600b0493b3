// commerce-sdk-isomorphic 5.6.0, the SDK of today's storefronts, which log in to SLAS themselves. Owns what
// its helpers do through the gateway's SLAS paths: their redirects, tokens and ends are SLAS's own.
// In Node the helpers ask for redirects unfollowed and read the code from the Location.
// Its package offers `import` a file that Node does not read as a module, hence `require`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import {
  callbackURI,
  claimsOf,
  gateway,
  parametersOf,
  privateClient,
  privateClientSecret,
  product,
  publicClient,
  redirectURI,
  refusalOf,
  shopper,
  strictClient,
} from "./shop.mjs";

const { ResponseError, ShopperBasketsV2, ShopperCustomers, ShopperLogin, ShopperProducts, helpers } = createRequire(
  import.meta.url,
)("isomorphic-5");

function configOf(clientId, token, proxy = gateway) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  return { proxy, parameters: parametersOf(clientId), headers, throwOnBadResponse: true };
}

const slasOf = (clientId, proxy) => new ShopperLogin(configOf(clientId, undefined, proxy));

function isTokenAnswer(answer, clientId) {
  assert.equal(answer.token_type, "Bearer");
  assert.ok(answer.refresh_token && answer.usid && answer.customer_id);
  assert.ok(claimsOf(answer.access_token).sub.includes(`::scid:${clientId}::`));
}

async function fillsABasket(clientId, token) {
  const baskets = new ShopperBasketsV2(configOf(clientId, token));
  const { basketId } = await baskets.createBasket({ body: {} });
  const parameters = { basketId };
  await baskets.addItemToBasket({ parameters, body: [{ productId: product, quantity: 1 }] });
  assert.equal((await baskets.getBasket({ parameters })).productItems[0].productId, product);
}

test("the redirect of a guest's authorization arrives unfollowed and unchanged", async () => {
  const authorized = await helpers.authorize({
    slasClient: slasOf(publicClient),
    codeVerifier: helpers.createCodeVerifier(),
    parameters: { redirectURI, hint: "guest" },
  });
  assert.ok(authorized.url.startsWith(`${redirectURI}?`), authorized.url);
  assert.ok(authorized.code && authorized.usid);
});

test("a guest of a public client logs in, fills a basket and refreshes", async () => {
  const slasClient = slasOf(publicClient);
  const guest = await helpers.loginGuestUser({ slasClient, parameters: { redirectURI } });
  isTokenAnswer(guest, publicClient);
  await fillsABasket(publicClient, guest.access_token);

  const refreshed = await helpers.refreshAccessToken({ slasClient, parameters: { refreshToken: guest.refresh_token } });
  isTokenAnswer(refreshed, publicClient);
  assert.equal(refreshed.customer_id, guest.customer_id);
  assert.notEqual(refreshed.refresh_token, guest.refresh_token, "a public client's refresh token is rotated");

  // The old one is void; SLAS's own answer tells, and storefronts look for its message.
  const again = helpers.refreshAccessToken({ slasClient, parameters: { refreshToken: guest.refresh_token } });
  const { error, response, problem } = await refusalOf(again);
  assert.ok(error instanceof ResponseError);
  assert.equal(response.status, 400);
  assert.equal(problem.message, "invalid refresh_token");
});

test("a registered shopper of a public client logs in, reads the profile and logs out", async () => {
  const slasClient = slasOf(publicClient);
  const answer = await helpers.loginRegisteredUserB2C({
    slasClient,
    credentials: shopper,
    parameters: { redirectURI },
  });
  isTokenAnswer(answer, publicClient);
  const customers = new ShopperCustomers(configOf(publicClient, answer.access_token));
  const profile = await customers.getCustomer({ parameters: { customerId: answer.customer_id } });
  assert.equal(profile.login, shopper.username);

  await helpers.logout({
    slasClient,
    parameters: { accessToken: answer.access_token, refreshToken: answer.refresh_token },
  });
  const after = helpers.refreshAccessToken({ slasClient, parameters: { refreshToken: answer.refresh_token } });
  assert.equal((await refusalOf(after)).response.status, 400);
});

test("a guest becomes the shopper with the same usid", async () => {
  const slasClient = slasOf(publicClient);
  const guest = await helpers.loginGuestUser({ slasClient, parameters: { redirectURI } });
  const registered = await helpers.loginRegisteredUserB2C({
    slasClient,
    credentials: shopper,
    parameters: { redirectURI, usid: guest.usid },
  });
  assert.equal(registered.usid, guest.usid);
  assert.notEqual(registered.customer_id, guest.customer_id);
});

test("a wrong password is SLAS's own refusal", async () => {
  const login = helpers.loginRegisteredUserB2C({
    slasClient: slasOf(publicClient),
    credentials: { ...shopper, password: "wrong" },
    parameters: { redirectURI },
  });
  const { error, response } = await refusalOf(login);
  assert.ok(error instanceof ResponseError);
  assert.equal(response.status, 401);
  assert.equal(response.headers.get("x-shopper-gateway-error"), null, "the gateway answered, not SLAS");
});

// A server's own secret; and what PWA Kit's storefronts with `useSLASPrivateClient` send in its place, below
// the prefix that they put before SLAS's paths.
const storefront = `${gateway}/mobify/slas/private`;
const placeholder = "_PLACEHOLDER_PROXY-PWA_KIT_SLAS_CLIENT_SECRET";
for (const [way, proxy, clientSecret] of [
  ["with its own secret, by SLAS's paths", gateway, privateClientSecret],
  ["with its own secret, by PWA Kit's prefix", storefront, privateClientSecret],
  ["with PWA Kit's placeholder", storefront, placeholder],
]) {
  test(`a private client logs in ${way}, refreshes and logs out`, async () => {
    const slasClient = slasOf(privateClient, proxy);
    const guest = await helpers.loginGuestUserPrivate({
      slasClient,
      parameters: {},
      credentials: { clientSecret },
    });
    isTokenAnswer(guest, privateClient);
    await fillsABasket(privateClient, guest.access_token);

    const registered = await helpers.loginRegisteredUserB2C({
      slasClient,
      credentials: { ...shopper, clientSecret },
      parameters: { redirectURI },
    });
    isTokenAnswer(registered, privateClient);

    const { access_token, refresh_token } = await helpers.refreshAccessToken({
      slasClient,
      parameters: { refreshToken: registered.refresh_token },
      credentials: { clientSecret },
    });
    assert.equal(refresh_token, registered.refresh_token, "a private client's refresh token is not rotated");
    await helpers.logout({ slasClient, parameters: { accessToken: access_token, refreshToken: refresh_token } });
    const after = helpers.refreshAccessToken({
      slasClient,
      parameters: { refreshToken: refresh_token },
      credentials: { clientSecret },
    });
    assert.equal((await refusalOf(after)).response.status, 400);
  });
}

for (const clientSecret of ["wrong", placeholder]) {
  test(`the client secret "${clientSecret}" stays wrong on SLAS's own paths`, async () => {
    const login = helpers.loginGuestUserPrivate({
      slasClient: slasOf(privateClient),
      parameters: {},
      credentials: { clientSecret },
    });
    assert.equal((await refusalOf(login)).response.status, 401);
  });
}

test("a storefront's strict client logs a shopper in without knowing its secret", async () => {
  const answer = await helpers.loginRegisteredUserB2C({
    slasClient: slasOf(strictClient, storefront),
    credentials: { ...shopper, clientSecret: placeholder },
    parameters: { redirectURI },
  });
  isTokenAnswer(answer, strictClient);
});

test("a passwordless login does not reveal whether an account exists", async () => {
  const ask = (userid) =>
    helpers.authorizePasswordless({
      slasClient: slasOf(privateClient, storefront),
      credentials: { clientSecret: placeholder },
      parameters: { userid, mode: "callback", callbackURI },
    });
  const answers = await Promise.all([shopper.username, "nobody@example.com"].map(ask));
  for (const answer of answers) {
    assert.deepEqual([answer.status, await answer.text()], [200, ""]);
  }
  const fields = answers.map((answer) => [...answer.headers.keys()].sort());
  assert.deepEqual(fields[0], fields[1]);
});

test("a call without a token is refused as the SDK expects it", async () => {
  const products = new ShopperProducts(configOf(publicClient));
  const { error, response, problem } = await refusalOf(products.getProducts({ parameters: { ids: [product] } }));
  assert.ok(error instanceof ResponseError);
  assert.equal(response.status, 401);
  assert.equal(response.headers.get("x-shopper-gateway-error"), "token_missing");
  assert.match(problem.type, /^https:/);
});

test("several ids in one query arrive as several", async () => {
  const guest = await helpers.loginGuestUser({ slasClient: slasOf(publicClient), parameters: { redirectURI } });
  const products = new ShopperProducts(configOf(publicClient, guest.access_token));
  const ids = [product, "701642812398M"];
  const answer = await products.getProducts({ parameters: { ids } });
  assert.deepEqual(answer.data.map((one) => one.id).sort(), [...ids].sort());
});
