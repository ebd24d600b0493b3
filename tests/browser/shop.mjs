// The shop and the addresses of the browser tests, from the environment that tests/gateway/browser.rs sets.

function given(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these tests are started by tests/gateway/browser.rs`);
  return value;
}

/** Where the processes listen. Browsers know them by the names below. */
export const addresses = { gateway: given("GATEWAY_ADDRESS"), simulator: given("SIMULATOR_URL") };

/** The gateway's origin. SLAS knows `{gateway}/callback` as the redirect URI. */
export const gateway = given("GATEWAY_ORIGIN");
/** An allowed origin of the gateway's site: another host of one registrable domain. */
export const shopOrigin = given("SHOP_ORIGIN");
/** An allowed origin of another site. */
export const appOrigin = given("APP_ORIGIN");
/** Origins that no tenant allows: of the gateway's site, and of another one. */
export const foreignOrigins = given("FOREIGN_ORIGINS").split(" ");

export const shopper = { username: given("SHOPPER_LOGIN"), password: given("SHOPPER_PASSWORD") };
export const clientId = given("PUBLIC_CLIENT");
export const organizationId = given("ORGANIZATION");
export const siteId = given("SITE");
export const product = "793775362380M";

/** The configuration of an SDK, as a page has it. */
export const sdkConfig = {
  proxy: gateway,
  parameters: { clientId, organizationId, siteId, shortCode: "kv7kzm78" },
  throwOnBadResponse: true,
};
export const redirectURI = `${gateway}/callback`;

/** The requests that reached the simulator. */
export async function ledger() {
  const response = await fetch(`${addresses.simulator}/__simulator/ledger`);
  return (await response.json()).entries;
}

/** Injects a fault into the simulator. */
export async function inject(fault) {
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${addresses.simulator}/__simulator/faults`, {
    method: "POST",
    headers,
    body: JSON.stringify(fault),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
}
