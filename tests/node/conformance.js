// Runs the official conformance suite of MCP against a node.
//
// Usage: node conformance.js NODE PORT REVISION EXPECTED. The suite speaks to
// 127.0.0.1:PORT in plain text and pretends to be pages and names that no certificate
// is for; what it sends goes to the node at host:port within TLS, and nothing is
// changed.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { connect } from "node:tls";

const [node, port, revision, expected] = process.argv.slice(2);
const [host, nodePort] = node.split(":");

const relay = createServer((suite) => {
  const secured = connect({ host, port: nodePort, servername: host, ALPNProtocols: ["http/1.1"] });
  suite.pipe(secured).pipe(suite);
  for (const end of [suite, secured]) {
    end.on("error", () => {
      suite.destroy();
      secured.destroy();
    });
  }
});
relay.listen(port, "127.0.0.1");
await once(relay, "listening");

// Packages lie where this runs, not where it is.
const suite = spawn(
  process.execPath,
  ["node_modules/.bin/conformance", "server", "--url", `http://localhost:${port}/mcp`, "--requirements", revision,
    "--expected-failures", expected],
  { stdio: "inherit" },
);
const [status] = await once(suite, "exit");
process.exit(status ?? 1);
