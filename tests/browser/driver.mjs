// Runs a page in Chromium. It takes one command a line, as JSON
// `{"run": "a function of page.mjs", "with": its argument}`, and answers each by a
// line with its `result` or its `failed`.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [chromium, url] = process.argv.slice(2);
const here = createRequire(import.meta.url);
const playwright = here("../../plugins/call/bindings/web/node_modules/playwright-core");

const browser = await playwright.chromium.launch({
  executablePath: chromium,
  args: ["--host-resolver-rules=MAP localhost 127.0.0.1"],
});
const page = await browser.newPage({ ignoreHTTPSErrors: true });
page.on("console", (message) => console.error(message.text()));
await page.goto(url);
console.log("ready");

const run = ({ run, with: argument }) =>
  page.evaluate(
    async ([run, argument]) => (await import("/page.mjs"))[run](argument),
    [run, argument],
  );

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await run(JSON.parse(line)).then(
    (result) => ({ result: result ?? null }),
    (error) => ({ failed: String(error) }),
  );
  console.log(JSON.stringify(answer));
}
await browser.close();
