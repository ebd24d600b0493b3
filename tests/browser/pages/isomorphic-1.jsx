// A page with commerce-sdk-isomorphic 1.13.1. The tests call its functions from inside the page.
import { ShopperBaskets, ShopperCustomers, ShopperLogin, ShopperSearch, helpers } from "isomorphic-1";

window.shop = {
  ShopperBaskets,
  ShopperCustomers,
  ShopperLogin,
  ShopperSearch,
  logInGuest: (slas, redirectURI) => helpers.loginGuestUser(slas, { redirectURI }),
  logIn: (slas, redirectURI, shopper) => helpers.loginRegisteredUserB2C(slas, shopper, { redirectURI }),
  refresh: (slas, refreshToken) => helpers.refreshAccessToken(slas, { refreshToken }),
  logOut: (slas, accessToken, refreshToken) => helpers.logout(slas, { accessToken, refreshToken }),
};
