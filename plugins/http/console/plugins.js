// What runs here, how far it is trusted, and what it may use.

import { badge, code, empty, facts, failure, h, panel, replace } from "./dom.js";
import { bytes, count, rate, span } from "./format.js";

const TRUST = {
  confined: ["good", "A component: it sees only what it is given, and is held to its limits."],
  isolated: ["plain", "A shared library in a process of its own: it can do whatever that process can, and crashes alone."],
  native: ["warn", "A shared library in the daemon’s own process: it can do whatever the daemon can."],
};

const ms = (value) => (value >= 1000 ? span(value / 1000) : `${value} ms`);
const listed = (values) => (values?.length ? values.map((one) => code(one)).flatMap((one, i) => (i ? [" ", one] : [one])) : null);

export function plugins(page, app) {
  async function load() {
    try {
      const { plugins: all, call_limits: limits } = await app.client.call("node/plugins");
      replace(
        page,
        all.length ? h("div", { class: "cards" }, all.map(card)) : empty("No plugins."),
        panel(
          "Limits on all calls",
          facts([
            ["Time of a call", `${ms(limits.default_timeout_ms)}, at most ${ms(limits.max_timeout_ms)}`],
            ["Time of a subscription", limits.max_subscription_ms ? `at most ${ms(limits.max_subscription_ms)}` : "no limit"],
            ["In flight", `${count(limits.in_flight_per_connection)} a connection, ${limits.in_flight_per_identity ? count(limits.in_flight_per_identity) : "any number"} an identity`],
            ["Rate of an identity", limits.calls_per_second ? `${rate(limits.calls_per_second)} a second` : "no limit"],
            ["Calls below one call", count(limits.live_descendants)],
          ]),
        ),
      );
    } catch (error) {
      replace(page, failure(error, load));
    }
  }
  load();
}

function card(plugin) {
  const [tone, meaning] = TRUST[plugin.trust] ?? ["plain", ""];
  return h(
    "article",
    { class: "panel plugin" },
    h(
      "div",
      { class: "head" },
      h("h2", {}, plugin.name),
      h("span", { class: "dim" }, plugin.version),
      badge(plugin.trust, tone, meaning),
    ),
    plugin.failure && h("div", { class: "notice bad" }, h("p", {}, h("strong", {}, "Not running. "), plugin.failure)),
    h("p", { class: "dim" }, meaning),
    facts([
      ["ALPNs", listed(plugin.alpns)],
      ["Operations", plugin.operations.length ? operations(plugin.operations) : null],
    ]),
    h("h3", {}, "Budget"),
    budget(plugin),
    h("h3", {}, "Grants"),
    grants(plugin.grants),
    h(
      "details",
      {},
      h("summary", {}, "Artifact"),
      facts([
        ["File", code(plugin.artifact)],
        ["SHA-256", code(plugin.sha256, { class: "whole" })],
        ["Plugin API", plugin.api],
        ["Loaded in", `${(plugin.load_time.secs * 1000 + plugin.load_time.nanos / 1e6).toFixed(1)} ms`],
      ]),
    ),
  );
}

function operations(names) {
  const links = names.map((name) => h("a", { href: `#explorer?${encodeURIComponent(name)}` }, code(name)));
  const shown = links.flatMap((link, i) => (i ? [" ", link] : [link]));
  if (names.length <= 8) return shown;
  return h("details", {}, h("summary", {}, `${names.length} operations`), shown);
}

const LIMITS = {
  memory: "Memory",
  cpu: "Computing at a stretch",
  cpu_per_second: "Computing a second",
  instances: "Instances for connections",
  call_instances: "Instances for calls",
  handles: "Handles",
  connections: "Connections",
  streams: "Streams",
  calls: "Calls in flight",
  subscriptions: "Subscriptions",
  bytes_per_second: "Bytes a second",
};

const UNITS = { bytes, milliseconds: ms, count };

function budget({ limits, usage }) {
  const [held, free] = [limits.filter((one) => one.enforced), limits.filter((one) => !one.enforced)];
  const row = (one) => [LIMITS[one.name] ?? one.name, against(one)];
  return [
    facts([
      ...held.filter((one) => one.limit !== null || one.used !== null).map(row),
      ["Computed", usage.cpu_seconds === null ? null : `${usage.cpu_seconds.toFixed(2)} s since the start`],
      ["Moved", `${bytes(usage.bytes_in)} in, ${bytes(usage.bytes_out)} out`],
    ]),
    free.length > 0 &&
      h("p", { class: "dim" }, "Not enforceable: ", free.map((one) => (one.limit === null ? one.name : `${one.name} (set)`)).join(", "), "."),
  ];
}

// `3 / 100`, and how often that was not enough.
function against(one) {
  const show = UNITS[one.unit] ?? String;
  const limit = one.limit === null ? null : show(one.limit) + (one.each ? ` an ${one.each}` : "");
  const used = one.used === null ? null : show(one.used);
  const text = [used, limit].filter((part) => part !== null).join(" / ");
  return one.hits ? [text, " ", badge(`hit ${count(one.hits)}×`, "warn", `Beyond the limit: ${one.beyond}`)] : text;
}

function grants(given) {
  const resources = Object.entries(given.resources ?? {}).map(([kind, actions]) => `${kind}: ${actions.join(", ")}`);
  const lent = given.capabilities.map((one) =>
    h("div", {}, code(one.name), ` ${one.kind}`, one.reveal && badge("revealed", "warn"), one.operations.length ? [" for ", listed(one.operations)] : null),
  );
  const pairs = [
    ["Calls as", given.authority && code(given.authority)],
    ["Scopes", listed(given.scopes)],
    ["Resources", resources.length ? resources.join("; ") : null],
    ["Reach", listed(given.reach)],
    ["Secrets lent", lent.length ? lent : null],
    ["Requests to", listed(given.outbound)],
    ["Keeps owners of", listed(given.owns)],
    ["Hidden", listed(given.hide)],
    ["Gateway", given.gateway ? "calls on behalf of its connections’ peers" : null],
  ];
  if (pairs.every(([, value]) => !value)) return h("p", { class: "dim" }, "None.");
  return facts(pairs);
}
