// The console in a browser, as an operator uses it: node console.mjs URL TOKEN PID.
// PID is the daemon's, which is killed in the end.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, token, daemon] = process.argv.slice(2);
const { BROWSER: executablePath, PICTURES: pictures } = process.env;
const here = createRequire(import.meta.url);
const { chromium } = here("../../plugins/call/bindings/web/node_modules/playwright-core");
mkdirSync(pictures, { recursive: true });

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const options = { ignoreHTTPSErrors: true, reducedMotion: "reduce", viewport: { width: 1280, height: 900 } };
const context = await browser.newContext({ ...options, colorScheme: "light" });
const page = await context.newPage();
page.setDefaultTimeout(30_000);

// What the page asks for, and what it complains of.
const requests = [];
const complaints = [];
context.on("request", (request) => requests.push(request));
page.on("pageerror", (error) => complaints.push(error.stack));
page.on("console", (message) => {
  // Refused calls and a lost node are part of the play.
  if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
    complaints.push(message.text());
  }
});

const picture = (name) => page.screenshot({ path: join(pictures, `${name}.png`) });
const section = async (name) => {
  await page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
  await page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
};

async function signIn(text) {
  await page.getByLabel("Token").fill(text);
  await page.getByRole("button", { name: "Sign in" }).click();
}

// The modules that decide something by themselves.
await page.goto(url);
await page.getByLabel("Token").waitFor();
const decided = await page.evaluate(async (base) => {
  const load = (name) => import(new URL(name, base).href);
  const [{ Events }, { kindOf, field, NOTHING }, format, charts] = await Promise.all(
    ["sse.js", "form.js", "format.js", "charts.js"].map(load),
  );
  const text = ": open\n\ndata: {\r\ndata: }\r\n\r\nevent: failed\ndata: 1\n\n";
  const events = new Events();
  const piecewise = [...text].flatMap((character) => events.push(character));
  const schema = {
    type: "object",
    required: ["text"],
    properties: {
      text: { type: "string" },
      size: { type: "integer", default: 3 },
      tags: { type: "array", items: { type: "string" } },
      inner: { type: "object", properties: { flag: { type: "boolean" } } },
      either: { oneOf: [{ type: "string" }, { type: "null" }] },
    },
    not: { required: ["size", "tags"] },
    oneOf: [{ required: ["size"] }, { not: { required: ["size"] } }],
  };
  const form = field(schema, true);
  const before = form.read();
  const value = { text: "a", size: 1, tags: ["x"], inner: { flag: true }, either: null };
  form.write(value);
  const after = form.read();
  form.write(NOTHING);
  return {
    piecewise,
    whole: new Events().push(text),
    kinds: Object.values(schema.properties).map((one) => kindOf(one, 1)),
    before,
    after,
    cleared: form.read(),
    latency: [0, 0.000_012, 0.001_5, 2].map(format.latency),
    within: [0.000_01, 0.001, 0.002_5, 10].map(format.within),
    bytes: [0, 1023, 1536, 5 * 2 ** 30].map(format.bytes),
    span: [0, 59, 3_700, 90_000].map(format.span),
    ceiling: [0, 0.7, 7, 11, 26, 100].map(charts.ceiling),
    runs: charts.runs([[0, 1], [1_000, 2], [9_000, 3], [10_000, null], [11_000, 4]]).length,
  };
}, url);
const event = (name, data) => ({ event: name, data });
assert.deepEqual(decided.piecewise, [event("message", "{\n}"), event("failed", "1")]);
assert.deepEqual(decided.whole, decided.piecewise);
assert.deepEqual(decided.kinds, ["string", "integer", "array", "object", "json"]);
assert.deepEqual(decided.before, { text: "" });
assert.deepEqual(decided.after, { text: "a", size: 1, tags: ["x"], inner: { flag: true }, either: null });
assert.deepEqual(decided.cleared, { text: "" });
assert.deepEqual(decided.latency, ["0.00 µs", "12.0 µs", "1.50 ms", "2.00 s"]);
assert.deepEqual(decided.within, ["10 µs", "1 ms", "2.5 ms", "10 s"]);
assert.deepEqual(decided.bytes, ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
assert.deepEqual(decided.span, ["0 s", "59 s", "1 h 1 min", "1 d 1 h"]);
assert.deepEqual(decided.ceiling, [1, 1, 10, 20, 50, 100]);
assert.equal(decided.runs, 3);

// A wrong token, and the right one.
await picture("sign-in");
await signIn("alk_wrong");
await page.getByText("The node knows no such token").waitFor();
assert.equal(await page.getByLabel("Token").getAttribute("type"), "password");

// A node that does not tell of itself: the banner, and the way back.
await page.route("**/subscribe?*", (route) => route.abort());
await signIn(token);
await page.getByText("Connection lost.").waitFor();
await picture("lost");
await page.unroute("**/subscribe?*");
await page.getByRole("button", { name: "Retry now" }).click();
await page.locator(".state.good").waitFor();
await page.getByText("Connection lost.").waitFor({ state: "hidden" });

// Calls through a form that comes from a schema.
await section("Explorer");
const search = page.getByLabel("Search operations");
await search.fill("node reload");
await page.getByText("0 operations").waitFor();
await search.fill("echo say");
await page.getByRole("link", { name: /^echo\/say/ }).click();
const text = page.getByLabel("text", { exact: false }).first();
const markup = "<img src=x onerror=alert(1)>";
await text.fill(markup);
const call = page.getByRole("button", { name: "Call", exact: true });
for (let n = 0; n < 25; n += 1) {
  await call.click();
  await page.getByText(/^Answered in/).waitFor();
}
const output = page.locator(".output pre");
assert.deepEqual(JSON.parse(await output.innerText()), { text: markup });
assert.equal(await page.locator(".output img").count(), 0);
await picture("explorer-call");
await search.fill("files stat");
await page.getByRole("link", { name: /^files\/stat/ }).click();
await page.getByRole("textbox", { name: "path", exact: true }).fill("none");
await call.click();
await page.locator(".output .notice", { hasText: "FILE_NOT_FOUND" }).waitFor();

// The form and the JSON of one input.
await search.fill("node recent");
await page.getByRole("link", { name: /^node\/recent/ }).click();
await page.getByLabel("limit").fill("5");
await page.getByLabel("kind").selectOption({ label: "refusal" });
await page.getByRole("button", { name: "Edit as JSON" }).click();
const json = page.getByLabel("Input as JSON");
assert.deepEqual(JSON.parse(await json.inputValue()), { limit: 5, kind: "refusal" });
await json.fill("{");
await call.click();
await page.getByText("is no JSON").waitFor();
await json.fill('{"limit": 600}');
await call.click();
await page.locator(".output .notice", { hasText: "INVALID_INPUT" }).waitFor();

// A subscription, until it is stopped.
await search.fill("node events");
await page.getByRole("link", { name: /^node\/events/ }).click();
await page.getByLabel("interval_ms").fill("300");
await page.getByRole("button", { name: "Subscribe" }).click();
await page.locator(".events li").nth(2).waitFor();
await picture("explorer-subscription");
await page.getByRole("button", { name: "Stop" }).click();
await page.getByText("Stopped.").waitFor();

// What all of that looks like to an operator.
await section("Operations");
await page.getByRole("button", { name: "echo/say" }).click();
const row = page.locator("tr[data-name='echo/say']");
assert.ok(Number(await row.locator("td.num").nth(1).innerText()) >= 25);
await page.locator(".side .histogram").waitFor();
await picture("operations");
await page.getByLabel("Filter by name or plugin").fill("files");
assert.equal(await row.count(), 0);
await section("Plugins");
await page.getByRole("heading", { name: "http" }).waitFor();
await page.getByText("Not enforceable: memory, cpu").first().waitFor();
const http = page.locator("article.plugin", { has: page.getByRole("heading", { name: "http", exact: true }) });
const connected = http.locator("dt", { hasText: /^Connections$/ }).locator("xpath=following-sibling::dd[1]");
assert.ok(Number(await connected.innerText()) >= 1, "the page itself is connected");
await picture("plugins");
await section("Connections");
await page.getByRole("cell", { name: "h2" }).first().waitFor();
await picture("connections");
await section("Recent");
await page.getByRole("cell", { name: "none/such" }).first().waitFor();
await page.getByText("Errors", { exact: true }).click();
await page.getByRole("cell", { name: "FILE_NOT_FOUND" }).first().waitFor();
assert.equal(await page.getByRole("cell", { name: "none/such" }).count(), 0);
await page.getByText("All", { exact: true }).click();
await picture("recent");
await section("Access");
await page.getByLabel("alk_inne may not call node/status").click();
await page.getByText("alk_inne may not call node/status").waitFor();
await page.getByText(/access\.toml:\d+/).first().waitFor();
await page.keyboard.press("ArrowDown");
const focused = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
assert.match(focused, /^alk_inne /);
await picture("access");
await section("Overview");
await page.locator(".chart path.line").first().waitFor();
await page.waitForFunction(() => document.querySelector(".chart path.line").getAttribute("d"));
await picture("overview");

// Dark, small, and by keyboard.
await page.emulateMedia({ colorScheme: "dark" });
await picture("overview-dark");
await section("Operations");
await row.waitFor();
await picture("operations-dark");
await page.setViewportSize({ width: 390, height: 844 });
await section("Overview");
await picture("overview-small");
const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
assert.ok(!wide, "a small page does not scroll sideways");
await page.setViewportSize({ width: 1280, height: 900 });
await page.evaluate(() => document.activeElement.blur());

// Signing out leaves nothing behind.
await page.getByRole("button", { name: "Sign out" }).click();
assert.equal(await page.getByLabel("Token").inputValue(), "");
const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]);
assert.deepEqual(kept, [0, 0, ""]);

// The node dies under the page.
await signIn(token);
await page.locator(".state.good").waitFor();
process.kill(Number(daemon), "SIGKILL");
await page.getByText("Connection lost.").waitFor();
await picture("dead");

const origin = new URL(url).origin;
for (const request of requests) {
  assert.equal(new URL(request.url()).origin, origin, "nothing is asked of others");
  assert.ok(!request.url().includes("alk_"), "no token is in an address");
  assert.ok(!request.headers().referer, "nor is where the page was");
}
assert.deepEqual(complaints, []);
await browser.close();
console.log("all seen");
