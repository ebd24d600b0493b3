// The storefronts of the tests with sessions in cookies, from the environment that tests/gateway/browser.rs sets: one for each kind
// of cookie and each kind of client. All are at one origin, as the sites of a shop are.

import { organizationId } from "./shop.mjs";

/**
 * `storefronts` have `siteId`, `clientId`, `isPrivate`, and `isReference`. `origin` is theirs, behind the edge. `plainOrigin` is the
 * same without TLS. `readerOrigin` and `actorOrigin` are allowed, the latter with `credentials`.
 * `rendered` is a storefront with reference cookies whose names have no prefix.
 */
export const { origin, plainOrigin, readerOrigin, actorOrigin, storefronts, rendered } = JSON.parse(process.env.STOREFRONTS ?? "{}");

export const description = ({ isReference, isPrivate }) =>
  `${isReference ? "reference" : "PWA Kit's"} cookies, ${isPrivate ? "private" : "public"} client`;

/** The names of the cookies that scripts cannot read. */
export function secretCookies({ siteId, isReference }) {
  const name = (key) => `${isReference ? "__Host-" : ""}${key}_${siteId}`;
  return { access: name("cc-at"), registered: name("cc-nx"), guest: name("cc-nx-g") };
}

/** What a page of a storefront knows: `CommerceApiProvider` takes it as it is. */
export function globals({ siteId, clientId, isPrivate }, at = origin) {
  return {
    providerConfig: {
      siteId,
      clientId,
      organizationId,
      shortCode: "kv7kzm78",
      proxy: `${at}/mobify/proxy/api`,
      privateClientProxyEndpoint: `${at}/mobify/slas/private`,
      publicClientProxyEndpoint: `${at}/mobify/slas/public`,
      redirectURI: `${at}/callback`,
      headers: { "x-site-id": siteId },
      enablePWAKitPrivateClient: isPrivate,
      enableHttpOnlySessionCookies: true,
    },
  };
}

/** The cookies of a browser, by name. */
export async function cookiesOf(page) {
  const cookies = await page.context().cookies();
  return new Map(cookies.map((cookie) => [cookie.name, cookie]));
}
