// Every method of every API of the newest SDKs, called once: none may be an operation that the gateway does not know.
// What the gateway answers otherwise (mostly 401, because no token is sent) is of no interest here.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import node from "node-6";
import { gateway, parametersOf, publicClient } from "./shop.mjs";

const isomorphic = createRequire(import.meta.url)("isomorphic-5");

const configured = { ...parametersOf(publicClient), tenantId: "zzrf_001" };
// Whatever parameter a method requires, it has one.
const parameters = new Proxy({}, {
  get: (_, name) => (typeof name === "string" ? (configured[name] ?? "a1") : undefined),
  ownKeys: () => [],
});

/** The classes of APIs that a package exports, at any depth. */
function apisOf(module) {
  const named = Object.entries(module).filter(([name]) => /^[A-Z]/.test(name));
  return named.flatMap(([name, value]) => {
    if (typeof value === "object") return apisOf(value);
    return typeof value === "function" && methodsOf(value.prototype).length > 0 ? [[name, value]] : [];
  });
}

function methodsOf(prototype) {
  const names = new Set();
  for (let at = prototype; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) names.add(name);
  }
  names.delete("constructor");
  return [...names];
}

/** Calls every method, and returns how many there were, those that the gateway does not know, and those that it was not asked. */
async function callAll(apis) {
  const unknown = [];
  const unasked = [];
  let calls = 0;
  for (const [name, api] of apis) {
    for (const method of methodsOf(Object.getPrototypeOf(api))) {
      const error = await api[method]({ parameters, body: {}, headers: {} }).then(() => undefined, (error) => error);
      const code = error?.response?.headers.get("x-shopper-gateway-error");
      if (code === "operation_unknown" || code === "operation_not_allowed") unknown.push(`${name}.${method}`);
      // An error without an answer would show nothing.
      if (error && !error.response) unasked.push(`${name}.${method}: ${error.message}`);
      calls += 1;
    }
  }
  return { unknown, unasked, calls };
}

test("the newest SDK of browsers calls known operations only", async () => {
  const apis = Object.entries(isomorphic).filter(([, Api]) => Api.defaultBaseUri);
  const at = (Api) => new Api({ proxy: gateway, parameters: configured });
  const { unknown, unasked, calls } = await callAll(apis.map(([name, Api]) => [name, at(Api)]));
  assert.deepEqual(unknown, []);
  assert.deepEqual(unasked, []);
  assert.ok(calls > 180, `only ${calls} methods were found`);
});

test("the newest SDK of Node servers calls known operations only", async () => {
  const at = (Api) => {
    const { baseUri } = new Api({ parameters: configured }).clientConfig;
    return new Api({ baseUri: baseUri.replace(/^https:\/\/[^/]+/, gateway), parameters: configured });
  };
  const isApi = ([, Api]) => new Api({ parameters: configured }).clientConfig?.baseUri;
  const apis = apisOf(node).filter(isApi).map(([name, Api]) => [name, at(Api)]);
  const { unknown, unasked, calls } = await callAll(apis);
  assert.deepEqual(unknown, []);
  assert.deepEqual(unasked, []);
  assert.ok(calls > 400, `only ${calls} methods were found`);
});
