// Every operation: how often, how long, how well.

import { histogram, sparkline } from "./charts.js";
import { badge, code, empty, facts, failure, h, keyed, panel, replace, setText, table } from "./dom.js";
import { count, latency, needs, rate, within } from "./format.js";

const EVERY = 5_000;

/** Errors of an operation; that callers left is none of them. */
const failed = ({ calls: { errors } }) =>
  Object.entries(errors).reduce((sum, [code, number]) => sum + (code === "ABORTED" ? 0 : number), 0);

/** Whether it answers: a subscription lasts as long as its consumer wants. */
const answers = (one) => one.op_type !== "subscription";

/** How long answers take, in seconds; -1 where that says nothing. */
const answered = (one, part) => (answers(one) && one.calls[part]) || -1;

/** The columns that the table is ordered by, with what they are ordered by. */
const ORDERS = {
  name: (a, b) => a.name.localeCompare(b.name),
  plugin: (a, b) => a.plugin.localeCompare(b.plugin) || a.name.localeCompare(b.name),
  calls: (a, b) => b.calls.count - a.calls.count || a.name.localeCompare(b.name),
  errors: (a, b) => failed(b) - failed(a) || a.name.localeCompare(b.name),
  p50: (a, b) => answered(b, "p50") - answered(a, "p50") || a.name.localeCompare(b.name),
  p99: (a, b) => answered(b, "p99") - answered(a, "p99") || a.name.localeCompare(b.name),
};

export function operations(page, app, detail) {
  const { client, live } = app;
  let all = [];
  let order = "calls";
  let text = "";
  let chosen = detail || null;
  let timer = null;
  let stopped = false;

  const sorters = new Map();
  const sorter = (id, label) => {
    const button = h("button", { type: "button", class: "sort", on: { click: () => sort(id) } }, label);
    sorters.set(id, button);
    return button;
  };
  const list = table("Operations", [
    { cell: sorter("name", "Operation") },
    { cell: sorter("plugin", "Plugin"), extra: true },
    "Type",
    "Trend",
    { label: "Now", numeric: true },
    { cell: sorter("calls", "Calls"), numeric: true },
    { cell: sorter("errors", "Errors"), numeric: true },
    { cell: sorter("p50", "p50"), numeric: true, extra: true },
    { cell: sorter("p99", "p99"), numeric: true },
  ]);
  const place = h("div", {});
  const side = h("div", { class: "side" });
  const filter = h("input", {
    type: "search",
    placeholder: "Filter by name or plugin",
    "aria-label": "Filter by name or plugin",
    on: {
      input: () => {
        text = filter.value.trim().toLowerCase();
        draw();
      },
    },
  });

  function sort(id) {
    order = id;
    draw();
  }

  function draw() {
    for (const [id, button] of sorters) {
      const direction = id === "name" || id === "plugin" ? "ascending" : "descending";
      const cell = button.parentNode;
      if (id === order) cell?.setAttribute("aria-sort", direction);
      else cell?.removeAttribute("aria-sort");
    }
    const shown = all.filter((one) => `${one.name} ${one.plugin}`.toLowerCase().includes(text)).sort(ORDERS[order]);
    keyed(list.body, shown, (one) => one.name, (one) => row(one, live, choose));
    for (const tr of list.body.children) tr.classList.toggle("chosen", tr.dataset.name === chosen);
    if (!shown.length) replace(place, empty(all.length ? "No operation has that in its name." : "No operations."));
    else if (list.node.parentNode !== place) replace(place, list.node);
    tick();
  }

  function tick() {
    for (const entry of list.body.keyed?.values() ?? []) entry.tick();
  }

  function choose(name) {
    chosen = name;
    history.replaceState(null, "", `#operations?${encodeURIComponent(name)}`);
    draw();
    describe(true);
  }

  function describe(moved = false) {
    // Who is reading there by keyboard stays there.
    if (!moved && side.contains(document.activeElement)) return;
    const one = all.find(({ name }) => name === chosen);
    replace(side, one && about(one));
    if (moved) side.scrollIntoView({ block: "nearest" });
  }

  async function load() {
    try {
      const answer = await client.call("node/operations");
      if (stopped) return;
      const first = !all.length;
      all = answer.operations;
      draw();
      describe(first && chosen);
    } catch (error) {
      if (!stopped) replace(place, failure(error, load));
    }
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(load, EVERY);
  }

  replace(
    page,
    h("div", { class: "split" }, panel(null, h("div", { class: "tools" }, filter), place), side),
  );
  load();
  const unlisten = live.listen(tick);
  return () => {
    stopped = true;
    clearTimeout(timer);
    unlisten();
  };
}

function row(one, live, choose) {
  const spark = sparkline(`Calls of ${one.name} over the last minutes`);
  const [now, calls, errors, p50, p99] = Array.from({ length: 5 }, () => h("td", { class: "num" }));
  p50.classList.add("extra");
  const shown = (seconds) => (answers(one) ? latency(seconds) : "–");
  const node = h(
    "tr",
    { "data-name": one.name },
    h(
      "th",
      { scope: "row" },
      h("button", { type: "button", class: "name", on: { click: () => choose(one.name) } }, code(one.name)),
    ),
    h("td", { class: "extra" }, one.plugin),
    h("td", {}, one.op_type, one.visibility === "internal" && [" ", badge("internal", "plain", "The wire does not reach it")]),
    h("td", {}, spark.node),
    now,
    calls,
    errors,
    p50,
    p99,
  );
  return {
    node,
    update(latest) {
      setText(calls, count(latest.calls.count));
      setText(errors, count(failed(latest)));
      errors.classList.toggle("some", failed(latest) > 0);
      setText(p50, shown(latest.calls.p50));
      setText(p99, shown(latest.calls.p99));
    },
    tick() {
      spark.update(live.rates(one.name));
      const busy = live.now(one.name);
      setText(now, busy ? `${rate(busy.calls_per_second)}/s` : "–");
    },
  };
}

function about(one) {
  const { calls } = one;
  const codes = Object.entries(calls.errors).map(([name, number]) => h("div", {}, badge(name, name === "ABORTED" ? "plain" : "bad"), ` ${count(number)}`));
  return panel(
    null,
    h("h2", {}, code(one.name)),
    h("p", {}, one.description || h("span", { class: "dim" }, "Without a description.")),
    facts([
      ["Served by", [one.plugin, one.provenance === "local" ? null : ` (${one.provenance})`]],
      ["Type", one.op_type],
      ["Asks for", needs(one.access)],
      ["Calls", `${count(calls.count)}, ${count(calls.in_flight)} in flight`],
      [answers(one) ? "Mean, p50, p90, p99" : "Lasted: mean, p50, p90, p99", [calls.mean, calls.p50, calls.p90, calls.p99].map(latency).join(", ")],
      ["Errors", codes.length ? codes : "none"],
    ]),
    calls.count > 0 && histogram(calls.buckets, calls.count, within),
    one.visibility === "external" &&
      h("p", {}, h("a", { href: `#explorer?${encodeURIComponent(one.name)}` }, "Open in the explorer")),
  );
}
