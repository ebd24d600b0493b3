// A page with commerce-sdk-isomorphic 5.6.0. The tests call its functions from inside the page.
import { ShopperBasketsV2, ShopperCustomers, ShopperLogin, ShopperSearch, helpers } from "isomorphic-5";

window.shop = {
  ShopperBaskets: ShopperBasketsV2,
  ShopperCustomers,
  ShopperLogin,
  ShopperSearch,
  logInGuest: (slasClient, redirectURI) => helpers.loginGuestUser({ slasClient, parameters: { redirectURI } }),
  logIn: (slasClient, redirectURI, credentials) =>
    helpers.loginRegisteredUserB2C({ slasClient, credentials, parameters: { redirectURI } }),
  refresh: (slasClient, refreshToken) => helpers.refreshAccessToken({ slasClient, parameters: { refreshToken } }),
  logOut: (slasClient, accessToken, refreshToken) =>
    helpers.logout({ slasClient, parameters: { accessToken, refreshToken } }),
};
