// Tokens must not reach scripts of a page whose session is in cookies. The tests look for them in everything that a script can read,
// after all that a shop does with commerce-sdk-isomorphic 5.6.0 and @salesforce/commerce-sdk-react 5.4.0.
// The functions given to `evaluate` run in the page.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browserWith, shows } from "./browser.mjs";
import { forwarded } from "./edge.mjs";
import { ledger, shopper } from "./shop.mjs";
import { cookiesOf, description, globals, origin, secretCookies, storefronts } from "./storefronts.mjs";

const open = await browserWith("cookies", "react");

const TOKEN_FIELDS = ["access_token", "refresh_token", "idp_access_token", "idp_refresh_token"];
const JWT = /eyJ[\w-]+\.[\w-]+\.[\w-]+/g;

for (const storefront of storefronts) {
  test(`${description(storefront)}: no token is where a script can read it`, async () => {
    const [seenBefore, askedBefore] = [forwarded.length, (await ledger()).length];
    const names = secretCookies(storefront);
    const page = await open(origin, "cookies", globals(storefront));
    const readable = [];
    const hidden = [];
    const look = async (page) => {
      readable.push(...(await page.evaluate(readableByScripts)));
      for (const { value, httpOnly } of (await cookiesOf(page)).values()) (httpOnly ? hidden : readable).push(value);
    };
    for (const step of [
      () => window.shop.logInGuest(),
      (shopper) => window.shop.logIn(shopper),
      () => window.shop.refresh(),
      () => window.shop.logInAt("google"),
    ]) {
      readable.push(JSON.stringify(await page.evaluate(step, shopper)));
      await page.evaluate(search);
      await look(page);
    }
    await page.context().clearCookies({ name: names.access });
    await page.evaluate(search);
    await look(page);

    const react = await open(origin, "react", globals(storefront), page);
    await shows(react, "#customer-type", "registered");
    await look(react);
    await react.click("text=Log out");
    await shows(react, "#customer-type", "guest");
    await react.waitForLoadState("networkidle");
    await look(react);

    const answers = forwarded.slice(seenBefore).filter(({ status }) => status);
    // Scripts can read every field but `Set-Cookie` (Fetch standard, "forbidden response-header name").
    for (const { headers: { "set-cookie": _, ...fields }, body } of answers) readable.push(JSON.stringify(fields), body);
    const answered = answers.map(({ body, headers }) => headers["content-type"]?.includes("json") && body && JSON.parse(body));
    for (const field of TOKEN_FIELDS) {
      // SLAS's answer to a logout has the fields, and no tokens.
      const values = answered.map((document) => document?.[field]).filter((value) => value && value !== "null");
      assert.deepEqual(values, [], field);
    }

    const tokens = tokensIn((await ledger()).slice(askedBefore));
    assert.ok(tokens.length >= 6, `${tokens.length} tokens`);
    const found = (texts) => tokens.filter((token) => texts.some((text) => text.includes(token)));
    assert.deepEqual(found(readable), []);
    const setCookies = answers.flatMap(({ headers }) => headers["set-cookie"] ?? []);
    // An ID token gives no access. PWA Kit's pages read it.
    const idTokens = setCookies.filter((cookie) => cookie.startsWith("id_token_")).flatMap((cookie) => cookie.match(JWT) ?? []);
    const jwts = readable.flatMap((text) => text.match(JWT) ?? []);
    assert.deepEqual(jwts.filter((jwt) => !idTokens.includes(jwt)), []);

    if (storefront.isReference) {
      assert.deepEqual(found(hidden), []);
      assert.ok(hidden.length > 0 && hidden.every((value) => !value.match(JWT)));
      assert.ok(setCookies.length > 0 && !setCookies.some((cookie) => cookie.match(JWT)));
      assert.deepEqual(found(setCookies), []);
    } else {
      // The search finds what is there.
      assert.ok(found(hidden).length >= 6);
    }
  });
}

function search() {
  return window.shop.search.productSearch({ parameters: { q: "tie" } });
}

/** All that a script of the page can read without a request. */
function readableByScripts() {
  const stored = [localStorage, sessionStorage].map((storage) => JSON.stringify({ ...storage }));
  return [document.cookie, ...stored, document.documentElement.outerHTML, location.href, window.name, JSON.stringify(history.state)];
}

/** The shoppers' tokens in the requests that Salesforce has received. */
function tokensIn(entries) {
  const tokens = new Set();
  for (const { headers, body, query } of entries) {
    for (const [name, value] of headers) {
      if (name === "authorization" && value.startsWith("Bearer ")) tokens.add(value.slice("Bearer ".length));
      if (name === "sfdc_refresh_token") tokens.add(value);
    }
    for (const fields of [body, query]) tokens.add(new URLSearchParams(fields).get("refresh_token"));
  }
  return [...tokens].filter(Boolean);
}
