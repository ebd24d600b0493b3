// A page with commerce-sdk-isomorphic 5.6.0 whose session is in cookies. It has no token. The tests call its functions from inside
// the page.
import { ShopperBasketsV2, ShopperCustomers, ShopperLogin, ShopperSearch, helpers } from "isomorphic-5";

const { siteId, clientId, organizationId, shortCode, headers, redirectURI, ...provider } = window.providerConfig;
const isPrivate = provider.enablePWAKitPrivateClient;
// The gateway replaces the secret.
const credentials = isPrivate ? { clientSecret: "none" } : {};
const enableHttpOnlySessionCookies = true;

const config = (proxy, more) => ({
  proxy,
  headers: { ...headers, ...more },
  parameters: { clientId, organizationId, siteId, shortCode },
  throwOnBadResponse: true,
  fetchOptions: { credentials: "same-origin" },
});
const slas = (more) =>
  new ShopperLogin(config(isPrivate ? provider.privateClientProxyEndpoint : provider.publicClientProxyEndpoint, more));
const slasClient = slas();
const api = (Api) => new Api(config(provider.proxy));

window.shop = {
  baskets: api(ShopperBasketsV2),
  customers: api(ShopperCustomers),
  search: api(ShopperSearch),
  logInGuest: () =>
    isPrivate
      ? helpers.loginGuestUserPrivate({ slasClient, credentials, parameters: {}, enableHttpOnlySessionCookies })
      : helpers.loginGuestUser({ slasClient, parameters: { redirectURI }, enableHttpOnlySessionCookies }),
  logIn: (shopper) =>
    helpers.loginRegisteredUserB2C({
      slasClient,
      credentials: { ...shopper, ...credentials },
      parameters: { redirectURI },
      enableHttpOnlySessionCookies,
    }),
  /** The login at an identity provider. */
  logInAt: async (hint) => {
    const authorization = await helpers.authorizeIDP({ slasClient, parameters: { redirectURI, hint }, privateClient: isPrivate });
    const { searchParams } = new URL((await fetch(authorization.url)).url);
    return helpers.loginIDPUser({
      slasClient,
      credentials: { codeVerifier: authorization.codeVerifier, ...credentials },
      parameters: { redirectURI, code: searchParams.get("code"), usid: searchParams.get("usid") },
      enableHttpOnlySessionCookies,
    });
  },
  refresh: () =>
    helpers.refreshAccessToken({
      slasClient: slas({ "x-grant-type": "refresh_token" }),
      parameters: { refreshToken: "" },
      credentials,
      enableHttpOnlySessionCookies,
    }),
  logOut: () => helpers.logout({ slasClient, parameters: { accessToken: "", refreshToken: "" } }),
  /** A readable cookie of the site. */
  cookie: (key) => document.cookie.split("; ").find((pair) => pair.startsWith(`${key}_${siteId}=`))?.split("=")[1],
};
