// @salesforce/commerce-sdk-react 5.4.0, unmodified, with bearer tokens in a page of another origin than the gateway's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browserWith, shows } from "./browser.mjs";
import { appOrigin, clientId, gateway, organizationId, redirectURI, shopOrigin, shopper, siteId } from "./shop.mjs";

const open = await browserWith("react");
const providerConfig = { clientId, organizationId, siteId, shortCode: "kv7kzm78", proxy: gateway, redirectURI };

for (const origin of [shopOrigin, appOrigin]) {
  test(`a shopper at ${origin} searches, fills a basket, logs in and logs out`, async () => {
    const page = await open(origin, "react", { providerConfig });
    await shows(page, "#customer-type", "guest");
    const guestId = await page.textContent("#customer-id");
    assert.ok(guestId);

    await page.fill("[aria-label=Search]", "tie");
    const tie = page.locator("li", { hasText: "Striped Silk Tie" });
    await tie.getByRole("button").click();
    await shows(page, "#basket", "1 Striped Silk Tie");

    await page.fill("[aria-label=Login]", shopper.username);
    await page.fill("[aria-label=Password]", "wrong");
    await page.click("text=Log in");
    await shows(page, "#login-error", "401 Unauthorized");
    await page.fill("[aria-label=Password]", shopper.password);
    await page.click("text=Log in");
    await shows(page, "#customer-type", "registered");
    const registeredId = await page.textContent("#customer-id");
    assert.notEqual(registeredId, guestId);

    // A new page finds the session in the browser's storage.
    await page.reload();
    await shows(page, "#customer-type", "registered");
    assert.equal(await page.textContent("#customer-id"), registeredId);

    await page.click("text=Log out");
    await shows(page, "#customer-type", "guest");
    await shows(page, "#basket", "empty");
    assert.deepEqual(page.scriptErrors, []);
  });
}
