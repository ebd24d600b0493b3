// A headless Chromium, and the server of the pages that it opens.
//
// Chromium looks up no name: `--host-resolver-rules` maps the gateway's name to the gateway, and every other name below `localhost` to
// the page server. Names below `localhost` are trustworthy origins (Secure Contexts, 3.1), so that pages have `crypto.subtle`.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { addresses, gateway } from "./shop.mjs";

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

/** Serves pages under every host name: `/{entry}` is a page with the script `/{entry}.js`. */
async function serve(scripts) {
  const server = createServer((request, response) => {
    const [, entry, isScript] = /^\/([\w-]+)(\.js)?$/.exec(request.url) ?? [];
    const isKnown = scripts.has(entry);
    const type = isScript ? "text/javascript" : "text/html; charset=utf-8";
    response.writeHead(isKnown ? 200 : 404, { "content-type": type, "cache-control": "no-store" });
    const main = `<main></main><script type="module" src="/${entry}.js"></script>`;
    response.end(!isKnown ? "" : isScript ? scripts.get(entry) : `<!doctype html><title>${entry}</title>${main}`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

function executable(name) {
  const found = process.env.PATH.split(delimiter).map((folder) => join(folder, name)).find(existsSync);
  if (!found) throw new Error(`${name} is not installed: run \`make test\`, which installs it`);
  return found;
}

/**
 * Starts Chromium and a server of the given pages, for a file of tests. Returns a function that opens a page at an origin, in a
 * new profile, with global variables for its script.
 */
export async function browserWith(...entries) {
  const server = await serve(new Map(await Promise.all(entries.map(async (entry) => [entry, await bundle(entry)]))));
  const pagesAt = `127.0.0.1:${server.address().port}`;
  const browser = await chromium.launch({
    executablePath: executable("chromium"),
    args: [
      "--no-sandbox",
      "--disable-dev-shm-usage",
      `--host-resolver-rules=MAP ${new URL(gateway).hostname} ${addresses.gateway}, MAP *.localhost ${pagesAt}, MAP * ^NOTFOUND`,
    ],
  });
  after(async () => {
    await browser.close();
    server.close();
  });
  return async (origin, entry, globals = {}) => {
    const context = await browser.newContext();
    await context.addInitScript((globals) => Object.assign(window, globals), globals);
    context.setDefaultTimeout(TIMEOUT_MS);
    const page = await context.newPage();
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
