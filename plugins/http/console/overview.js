// The node at a glance.

import { chart, sparkline } from "./charts.js";
import { badge, code, empty, facts, failure, h, keyed, panel, replace, setText, table } from "./dom.js";
import { bytes, count, latency, moment, plural, rate, span, within } from "./format.js";
import { incidentRow, INCIDENT_COLUMNS } from "./recent.js";

const BUSIEST = 6;

export function overview(page, app) {
  const { live, client } = app;
  const calls = chart({
    title: "Calls per second",
    series: [
      { name: "calls", tone: "first", area: true },
      { name: "errors", tone: "bad" },
    ],
    format: rate,
  });
  const latencies = chart({
    title: "Latency",
    series: [
      { name: "p50", tone: "first" },
      { name: "p99", tone: "second" },
    ],
    format: latency,
    bound: within,
    floor: 0.000_1,
  });
  const connected = chart({
    title: "Connections",
    series: [{ name: "connections", tone: "first", area: true }],
    format: count,
    floor: 5,
  });
  const memory = chart({
    title: "Memory",
    series: [{ name: "resident", tone: "first", area: true }],
    format: bytes,
    floor: 1 << 20,
    unit: 1 << 20,
  });

  const busiest = h("div", {});
  const list = table("Busiest operations", [
    "Operation",
    "Trend",
    { label: "Calls/s", numeric: true },
    { label: "p99", numeric: true },
  ]);
  const incidents = h("div", {});
  const troubles = table("Latest errors and refusals", INCIDENT_COLUMNS.slice(0, 4));
  const idle = empty("No calls in the last minutes.");
  const well = empty("Nothing has gone wrong.");
  const unknown = [0, 1].map(() => empty("The node has not told yet."));
  const about = h("div", { class: "stack" });

  function draw() {
    const at = (pick) => live.samples.map((sample) => [sample.unix_ms, pick(sample)]);
    calls.update([at((one) => one.calls_per_second), at((one) => one.errors_per_second)]);
    latencies.update([at((one) => one.p50), at((one) => one.p99)]);
    connected.update([at((one) => one.connections)]);
    memory.update([at((one) => one.resident_bytes)]);

    const totals = [...live.operations.keys()].map((name) => {
      const rates = live.rates(name);
      return { name, rates, total: rates.reduce((sum, [, value]) => sum + value, 0) };
    });
    const top = totals.filter(({ total }) => total > 0).sort((a, b) => b.total - a.total).slice(0, BUSIEST);
    keyed(list.body, top, (one) => one.name, ({ name }) => busyRow(live, name));
    swap(busiest, top.length ? list.node : live.last ? idle : unknown[0]);
    const latest = live.incidents.slice(0, BUSIEST);
    keyed(troubles.body, latest, (one) => one.seq, (one) => incidentRow(one, true));
    swap(incidents, latest.length ? troubles.node : live.last ? well : unknown[1]);
  }

  async function describe() {
    try {
      app.status = await client.call("node/status");
      replace(about, ...node(app.status));
    } catch (error) {
      replace(about, failure(error, describe));
    }
  }

  replace(about, ...node(app.status));
  replace(
    page,
    h("div", { class: "charts" }, calls.node, latencies.node, connected.node, memory.node),
    h("div", { class: "columns" }, panel("Busiest operations", busiest), panel("Latest errors and refusals", incidents)),
    about,
  );
  draw();
  const unlisten = live.listen(draw);
  const again = setInterval(describe, 10_000);
  return () => {
    unlisten();
    clearInterval(again);
  };
}

/** Shows another node only where it is another one. */
function swap(place, node) {
  if (place.firstChild !== node) replace(place, node);
}

function busyRow(live, name) {
  const spark = sparkline(`Calls of ${name} over the last minutes`);
  const perSecond = h("td", { class: "num" });
  const p99 = h("td", { class: "num" });
  const node = h(
    "tr",
    {},
    h("th", { scope: "row" }, h("a", { href: `#operations?${encodeURIComponent(name)}` }, code(name))),
    h("td", {}, spark.node),
    perSecond,
    p99,
  );
  return {
    node,
    update({ rates }) {
      spark.update(rates);
      setText(perSecond, rate(live.now(name)?.calls_per_second ?? 0));
      setText(p99, latency(live.now(name)?.p99));
    },
  };
}

function node(status) {
  const blocks = [];
  if (status.degraded) {
    blocks.push(h("div", { class: "notice bad", role: "alert" }, h("p", {}, h("strong", {}, "Degraded. "), "A plugin or an import is missing.")));
  }
  const refused = status.access?.refused;
  if (refused) {
    const lines = refused.problems.map((one) => h("li", {}, one.line ? `line ${one.line}: ` : "", one.what, "; ", one.remedy));
    blocks.push(
      h("div", { class: "notice bad", role: "alert" }, h("p", {}, h("strong", {}, "access.toml is refused. "), "What was in force stays so."), h("ul", {}, lines)),
    );
  }
  const list = (values) => (values?.length ? values.map((one, i) => [i ? ", " : "", code(one)]) : null);
  const certificates = (status.certificates ?? []).map((one) => {
    const end = one.not_after_unix ? `until ${moment(one.not_after_unix * 1000)}` : "none yet";
    return h("div", {}, `${one.kind}, ${(one.names ?? []).join(", ")}, ${end}`, one.error && badge(`not replaced: ${one.error}`, "bad"));
  });
  const { access, confinement } = status;
  blocks.push(
    panel(
      "Node",
      facts([
        ["Key", code(status.node_key, { class: "whole" })],
        ["Version", status.version],
        ["QUIC", list(status.addresses)],
        ["TLS over TCP", list(status.tcp_addresses)],
        ["Relay", status.relay && code(status.relay)],
        ["Certificate", certificates.length ? certificates : null],
        ["Access", access && `${plural(access.peers, "peer")}, ${plural(access.api_keys, "API key")}, in force since ${moment(access.since_unix_ms)}`],
        ["Confinement", confinement && `${confinement.enforced}, Landlock ${confinement.landlock}`],
        ["Operations", count(status.operations)],
        ["Tasks", count(status.tasks)],
      ]),
    ),
  );
  if (status.imports?.length) blocks.push(panel("Imports", imports(status.imports)));
  return blocks;
}

function imports(list) {
  const shown = table("Imports", ["Name", "Kind", "Prefix", "State", { label: "Operations", numeric: true }, "Last error"]);
  for (const one of list) {
    const good = one.state === "connected";
    const since = `for ${span(Math.max(Date.now() / 1000 - one.since, 0))}`;
    shown.body.append(
      h(
        "tr",
        {},
        h("th", { scope: "row" }, one.name),
        h("td", {}, one.kind),
        h("td", {}, code(one.prefix)),
        h("td", {}, badge(one.state, good ? "good" : "bad"), " ", h("span", { class: "dim" }, since)),
        h("td", { class: "num" }, count(one.operations?.length)),
        h("td", {}, one.last_error ?? ""),
      ),
    );
  }
  return shown.node;
}
