// The shop that the tests log in to. Owns the names of the environment variables that sdk.rs sets;
// a missing one is an error here and not an odd URL later.

import assert from "node:assert/strict";

function given(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: these tests are started by tests/gateway/sdk.rs`);
  return value;
}

export const gateway = given("GATEWAY_URL");
export const redirectURI = given("REDIRECT_URI");
export const callbackURI = given("CALLBACK_URI");
export const shopper = { username: given("SHOPPER_LOGIN"), password: given("SHOPPER_PASSWORD") };
export const publicClient = given("PUBLIC_CLIENT");
export const privateClient = given("PRIVATE_CLIENT");
export const strictClient = given("STRICT_CLIENT");
export const privateClientSecret = given("PRIVATE_CLIENT_SECRET");
/** A trusted system's proofs, as values of Authorization. */
export const caller = { "bearer token": `Bearer ${given("CALLER_TOKEN")}`, secret: `Basic ${given("CALLER_BASIC")}` };
export const product = "793775362380M";

/** Both kinds of SLAS client; an app of the removed logins cannot tell which one its `clientId` is. */
export const clients = { "public client": publicClient, "private client": privateClient };

/** What an app configures once for every API. */
export function parametersOf(clientId) {
  return { clientId, organizationId: given("ORGANIZATION"), siteId: given("SITE"), shortCode: "kv7kzm78" };
}

/** The Basic credential of the shopper, as apps wrote it for `type: "credentials"`. */
export function basic({ username, password }) {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

/** The claims of a shopper token, unverified: the tests only compare them. */
export function claimsOf(token) {
  return JSON.parse(Buffer.from(token.replace(/^Bearer /, "").split(".")[1], "base64url"));
}

/** The error of a call that must fail, and the document that came with it. */
export async function refusalOf(call) {
  const error = await call.then(() => assert.fail("the call succeeded"), (error) => error);
  assert.ok(error.response, error.stack);
  return { error, response: error.response, problem: JSON.parse(await error.response.text()) };
}
