// Clients on the official TypeScript SDKs: the first one, which speaks 2025-11-25, and
// its successor in 2026-07-28. They print what they get as lines of JSON.
//
// Usage: node mcp_client.js URL TOKEN CALLS. A call is a tool's name and arguments; one
// that is `"cancelled": true` is cancelled as soon as the tests say so, by a line of
// standard input.

import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

// Packages lie where this runs, not where it is.
const require = createRequire(`${process.cwd()}/`);
const first = require("@modelcontextprotocol/sdk/client/index.js");
const firstHttp = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const second = require("@modelcontextprotocol/client");

const [url, token, calls] = process.argv.slice(2);
const requestInit = token ? { headers: { authorization: `Bearer ${token}` } } : {};
const information = { name: "tests", version: "1" };
const lines = createInterface({ input: process.stdin });

const say = (value) => console.log(JSON.stringify(value));

async function ask(client, transport, call) {
  await client.connect(transport);
  const { tools } = await client.listTools();
  say({ session: transport.sessionId !== undefined, tools: tools.map((tool) => tool.name) });
  for (const [name, args, { cancelled = false } = {}] of JSON.parse(calls)) {
    const progress = [];
    const ending = new AbortController();
    const options = {
      onprogress: ({ progress: ended, total }) => progress.push([ended, total]),
      signal: ending.signal,
    };
    const answer = call(client, { name, arguments: args }, options);
    if (cancelled) {
      answer.catch(() => {});
      say({ calling: name });
      await once(lines, "line");
      ending.abort("no longer wanted");
      // What the SDK sends goes out before the client closes.
      await client.listTools();
      say({ cancelled: await answer.then(() => false, () => true) });
    } else {
      const { isError = false, structuredContent } = await answer;
      say({ error: isError, content: structuredContent, progress });
    }
  }
  await client.close();
}

await ask(
  new first.Client(information),
  new firstHttp.StreamableHTTPClientTransport(new URL(url), { requestInit }),
  (client, request, options) => client.callTool(request, undefined, options),
);
await ask(
  new second.Client(information, { versionNegotiation: { mode: { pin: "2026-07-28" } } }),
  new second.StreamableHTTPClientTransport(new URL(url), { requestInit }),
  (client, request, options) => client.callTool(request, options),
);
lines.close();
