// Tabs of one browser that refresh a session in cookies at the same moment, with commerce-sdk-isomorphic 5.6.0 and
// @salesforce/commerce-sdk-react 5.4.0. SLAS accepts each refresh token of a public client once.
// The functions given to `evaluate` run in the page.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { browserWith, shows } from "./browser.mjs";
import { forwarded } from "./edge.mjs";
import { ledger, shopper } from "./shop.mjs";
import { cookiesOf, description, globals, origin, secretCookies, storefronts } from "./storefronts.mjs";

const open = await browserWith("cookies", "react");

/** SLAS accepts a private client's refresh token more than once, so fewer rounds do. */
const roundsOf = ({ isPrivate }) => (isPrivate ? 50 : 200);

// All at once: a refresh mostly waits.
describe("isomorphic SDK", { concurrency: true }, () => {
  for (const storefront of storefronts) {
    const rounds = roundsOf(storefront);
    test(`${description(storefront)}: two tabs refresh ${rounds} times at once`, async () => {
      const one = await open(origin, "cookies", globals(storefront));
      const two = await open(origin, "cookies", globals(storefront), one);
      await two.evaluate(follow);
      const { customerId, outcomes } = await one.evaluate(lead, { rounds, shopper });
      assert.equal(outcomes.length, 2 * rounds);
      assert.deepEqual(outcomes.filter((outcome) => outcome !== customerId), []);
      const ofSite = (await refreshes()).filter(({ body }) => new URLSearchParams(body).get("channel_id") === storefront.siteId);
      // SLAS sees one refresh of both tabs, but for a rare second one.
      assert.ok(ofSite.length >= rounds && ofSite.length < 1.5 * rounds, `${ofSite.length} refreshes`);
      for (const tab of [one, two]) {
        const login = (parameters) => window.shop.customers.getCustomer({ parameters }).then(({ login }) => login);
        assert.equal(await tab.evaluate(login, { customerId }), shopper.username);
        assert.equal(await tab.evaluate(() => window.shop.cookie("customer_type")), "registered");
      }
    });
  }
});

describe("React SDK", { concurrency: true }, () => {
  for (const storefront of storefronts) {
    test(`${description(storefront)}: two tabs find an ended access cookie at once`, async () => {
      const one = await open(origin, "react", globals(storefront));
      await shows(one, "#customer-type", "guest");
      await one.fill("[aria-label=Login]", shopper.username);
      await one.fill("[aria-label=Password]", shopper.password);
      await one.click("text=Log in");
      await shows(one, "#customer-type", "registered");
      const two = await open(origin, "react", globals(storefront), one);
      const customerId = await one.textContent("#customer-id");
      const { access } = secretCookies(storefront);
      const expiry = `cc-at-expires_${storefront.siteId}`;
      const words = ["tie", "scarf", "laptop", "shirt"];
      for (let round = 0; round < 6; round++) {
        // The SDK refreshes if the time of the end is missing, and the gateway if the access cookie is.
        const gone = [[expiry], [access], [expiry, access]][round % 3];
        for (const name of gone) await one.context().clearCookies({ name });
        const search = async (tab, word) => {
          const answer = tab.waitForResponse((response) => response.url().includes("product-search"));
          await tab.fill("[aria-label=Search]", `${word}${" ".repeat(1 + round)}`);
          assert.equal((await answer).status(), 200);
        };
        await Promise.all([search(one, words[round % 4]), search(two, words[(round + 1) % 4])]);
        assert.ok((await cookiesOf(one)).has(access));
      }
      for (const tab of [one, two]) {
        await tab.reload();
        await shows(tab, "#customer-type", "registered");
        assert.equal(await tab.textContent("#customer-id"), customerId);
      }
    });
  }
});

test("no refresh was refused, neither by the gateway nor by SLAS", async () => {
  const refused = forwarded.filter(({ status, body }) => status >= 400 || body.includes("invalid refresh_token"));
  assert.deepEqual(refused.map(({ path, status, body }) => [path, status, body]), []);
  assert.deepEqual((await refreshes()).filter(({ status }) => status !== 200), []);
});

/** The refreshes that SLAS has seen. */
async function refreshes() {
  return (await ledger()).filter(({ flow }) => flow === "token:refresh_token");
}

/** Refreshes whenever the other tab says so, and tells it the outcome. */
function follow() {
  const channel = new BroadcastChannel("refresh");
  channel.onmessage = async ({ data: round }) => {
    const outcome = await window.shop.refresh().then(
      ({ customer_id }) => customer_id,
      ({ response }) => `round ${round}: ${response.status}`,
    );
    channel.postMessage(outcome);
  };
}

/**
 * Logs in and then refreshes at the same moment as the other tab, many times. Each round has a new session, because the gateway sends
 * at most one refresh of a session in ten seconds to SLAS. Returns the customers of all refreshes, or the errors.
 */
async function lead({ rounds, shopper }) {
  const channel = new BroadcastChannel("refresh");
  const outcomes = [];
  let customerId;
  for (let round = 0; round < rounds; round++) {
    ({ customer_id: customerId } = await window.shop.logIn(shopper));
    const other = new Promise((resolve) => (channel.onmessage = ({ data }) => resolve(data)));
    channel.postMessage(round);
    const own = window.shop.refresh().then(
      ({ customer_id }) => customer_id,
      ({ response }) => `round ${round}: ${response.status}`,
    );
    outcomes.push(...(await Promise.all([own, other])));
  }
  return { customerId, outcomes };
}
