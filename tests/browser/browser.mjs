// A headless Chromium, and the server of the pages that it opens.
//
// Chromium looks up no name: `--host-resolver-rules` maps the gateway's name to the gateway, and every other name below `localhost` to
// the server of the pages. Names below `localhost` are trustworthy origins (Secure Contexts, 3.1), so that pages have
// `crypto.subtle`. With `EDGE_CERTIFICATE`, the pages are at https, but for those of `plainOrigin`.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { serve } from "./edge.mjs";
import { addresses, gateway } from "./shop.mjs";
import { plainOrigin } from "./storefronts.mjs";

const pages = fileURLToPath(new URL("pages/", import.meta.url));

const REACT_QUERY = "@tanstack/react-query";

/** Maximum time of a step in a page. */
const TIMEOUT_MS = 15_000;

/** Bundles an entry of `pages/` with the unmodified packages that it imports. */
async function bundle(entry) {
  const { outputFiles } = await build({
    entryPoints: [join(pages, `${entry}.jsx`)],
    bundle: true,
    write: false,
    format: "esm",
    platform: "browser",
    // The SDKs import Node's `crypto` where there is no `window`, and bundlers for browsers leave it out.
    external: ["crypto"],
    // One copy for the page, which imports it, and for commerce-sdk-react, which requires it.
    alias: { [REACT_QUERY]: createRequire(import.meta.url).resolve(REACT_QUERY) },
    define: { "process.env.NODE_ENV": '"production"' },
    jsx: "automatic",
    logLevel: "error",
  });
  return outputFiles[0].text;
}

function executable(name) {
  const found = process.env.PATH.split(delimiter).map((folder) => join(folder, name)).find(existsSync);
  if (!found) throw new Error(`${name} is not installed: run \`make test\`, which installs it`);
  return found;
}

/** The certificate of the pages' server, if they are at https. */
function certificate() {
  const { EDGE_CERTIFICATE, EDGE_KEY } = process.env;
  return EDGE_CERTIFICATE && { cert: readFileSync(EDGE_CERTIFICATE), key: readFileSync(EDGE_KEY) };
}

/**
 * Starts Chromium and a server of the given pages, for a file of tests. Returns a function that opens a page at an origin, with
 * global variables for its script, in a new profile or in the one of another page.
 */
export async function browserWith(...entries) {
  const scripts = new Map(await Promise.all(entries.map(async (entry) => [entry, await bundle(entry)])));
  const [server, plainServer] = await Promise.all([serve(scripts, certificate()), serve(scripts)]);
  const at = (server) => `127.0.0.1:${server.address().port}`;
  const rules = [`MAP ${new URL(gateway).hostname} ${addresses.gateway}`];
  if (plainOrigin) rules.push(`MAP ${new URL(plainOrigin).hostname} ${at(plainServer)}`);
  rules.push(`MAP *.localhost ${at(server)}`, "MAP * ^NOTFOUND");
  const browser = await chromium.launch({
    executablePath: executable("chromium"),
    args: ["--no-sandbox", "--disable-dev-shm-usage", `--host-resolver-rules=${rules.join(", ")}`],
  });
  after(async () => {
    await browser.close();
    server.close();
    plainServer.close();
  });
  const newProfile = async () => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    context.setDefaultTimeout(TIMEOUT_MS);
    return context;
  };
  return async (origin, entry, globals = {}, tab = undefined) => {
    const page = await (tab?.context() ?? (await newProfile())).newPage();
    await page.addInitScript((globals) => Object.assign(window, globals), globals);
    page.scriptErrors = [];
    page.on("pageerror", (error) => page.scriptErrors.push(error.stack));
    await page.goto(`${origin}/${entry}`, { waitUntil: "load" });
    assert.deepEqual(page.scriptErrors, []);
    return page;
  };
}

/** Waits until an element shows a text. */
export async function shows(page, selector, text) {
  const isShown = ([selector, text]) => document.querySelector(selector)?.textContent === text;
  await page.waitForFunction(isShown, [selector, text]).catch(async (error) => {
    const found = page.locator(selector);
    const actual = (await found.count()) > 0 ? await found.textContent() : "no element";
    const message = `${selector} shows ${JSON.stringify(actual)} instead of ${JSON.stringify(text)}`;
    throw new Error([message, ...page.scriptErrors].join("\n"), { cause: error });
  });
}
