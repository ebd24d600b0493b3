// The server in front of a shop, as a CDN or a load balancer is: it serves the pages, and forwards `/mobify/` to the gateway.

import { createServer, request as requestOf } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { addresses } from "./shop.mjs";

/** Fields of one connection, which node writes itself. */
const CONNECTION_FIELDS = ["connection", "keep-alive", "transfer-encoding"];

/** The requests that servers of this process have forwarded, with the gateway's answers. */
export const forwarded = [];

/**
 * Serves pages under every host name: `/{entry}` is a page with the script `/{entry}.js`, and `/callback` is empty. With a
 * certificate the server speaks https.
 */
export async function serve(scripts, certificate) {
  const answer = (request, response) => {
    if (request.url.startsWith("/mobify/")) return forward(request, response);
    const [, entry, isScript] = /^\/([\w-]+)(\.js)?(?:\?.*)?$/.exec(request.url) ?? [];
    const isKnown = scripts.has(entry) || entry === "callback";
    const type = isScript ? "text/javascript" : "text/html; charset=utf-8";
    response.writeHead(isKnown ? 200 : 404, { "content-type": type, "cache-control": "no-store" });
    const main = `<main></main><script type="module" src="/${entry}.js"></script>`;
    response.end(!scripts.has(entry) ? "" : isScript ? scripts.get(entry) : `<!doctype html><title>${entry}</title>${main}`);
  };
  const server = certificate ? createSecureServer(certificate, answer) : createServer(answer);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

/** Forwards a request with its `Host`, by which the gateway recognizes pages of the own origin. */
function forward(request, response) {
  const { method, url, headers } = request;
  const entry = { method, path: url.split("?")[0], body: "" };
  forwarded.push(entry);
  const [host, port] = addresses.gateway.split(":");
  const upstream = requestOf({ host, port, method, path: url, headers });
  upstream.on("response", (answer) => {
    Object.assign(entry, { status: answer.statusCode, headers: answer.headers });
    const fields = Object.entries(answer.headers).filter(([name]) => !CONNECTION_FIELDS.includes(name));
    response.writeHead(answer.statusCode, Object.fromEntries(fields));
    answer.on("data", (chunk) => (entry.body += chunk));
    answer.pipe(response);
  });
  upstream.on("error", () => response.destroy());
  request.pipe(upstream);
}
