// Every operation that the caller may call: what it is, and a form to call it.

import { badge, code, empty, failure, h, panel, replace, setText } from "./dom.js";
import { latency, needs, plural, time } from "./format.js";
import { field, kindOf, NOTHING } from "./form.js";

const ITEMS = 100;
/** Characters of one output that are shown. */
const LONGEST = 200_000;

export function explorer(page, { client }, detail) {
  const results = h("ul", { class: "found" });
  const total = h("p", { class: "dim", role: "status" });
  const side = h("div", { class: "side" });
  let stop = () => {};
  let asked = 0;
  let chosen = null;

  const search = h("input", {
    type: "search",
    placeholder: "Search operations",
    "aria-label": "Search operations",
    on: { input: () => find() },
  });

  async function find() {
    const mine = (asked += 1);
    try {
      const { operations, total: number } = await client.search(search.value);
      if (mine !== asked) return;
      replace(results, operations.map(link));
      mark();
      setText(total, plural(number, "operation"));
    } catch (error) {
      if (mine === asked) replace(results, h("li", {}, failure(error, find)));
    }
  }

  function link(one) {
    const open = (event) => {
      event.preventDefault();
      history.replaceState(null, "", `#explorer?${encodeURIComponent(one.name)}`);
      show(one.name);
    };
    return h(
      "li",
      {},
      h(
        "a",
        { href: `#explorer?${encodeURIComponent(one.name)}`, "data-name": one.name, on: { click: open } },
        h("span", { class: "head" }, code(one.name), kind(one.op_type)),
        h("span", { class: "dim" }, one.description),
      ),
    );
  }

  function mark() {
    for (const one of results.querySelectorAll("a")) {
      if (one.dataset.name === chosen) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
  }

  async function show(name) {
    stop();
    chosen = name;
    mark();
    try {
      const spec = await client.schema(name);
      if (chosen !== name) return;
      const shown = operation(client, spec);
      stop = shown.stop;
      replace(side, shown.node);
      side.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (chosen === name) replace(side, failure(error, () => show(name)));
    }
  }

  replace(page, h("div", { class: "split narrow" }, panel(null, search, total, results), side));
  replace(side, empty("Choose an operation.", "Its form is made from the schema of its input."));
  find();
  if (detail) show(detail);
  return () => stop();
}

function kind(type) {
  return badge(type, type === "query" ? "plain" : type === "mutation" ? "warn" : "good");
}

/** One operation with its form and what came of it. */
function operation(client, spec) {
  const subscribes = spec.op_type === "subscription";
  const form = input(spec);
  const output = h("section", { class: "output" });
  let running = null;

  const go = h("button", { type: "submit", class: "primary" }, subscribes ? "Subscribe" : "Call");
  const halt = h("button", { type: "button", hidden: true, on: { click: () => stop() } }, "Stop");

  function stop() {
    running?.abort();
    running = null;
  }

  async function submit(event) {
    event.preventDefault();
    const value = form.read();
    if (value === NOTHING) return;
    stop();
    const mine = (running = new AbortController());
    go.disabled = !subscribes;
    halt.hidden = false;
    try {
      await (subscribes ? follow : call)(client, spec.name, value, mine.signal, output);
    } catch (error) {
      // Whatever came after it has the place for itself.
      if (running && running !== mine) return;
      if (mine.signal.aborted) output.querySelector(".status")?.append(" Stopped.");
      else output.append(trouble(error));
    }
    if (running === mine || !running) {
      running = null;
      go.disabled = false;
      halt.hidden = true;
    }
  }

  const node = panel(
    null,
    h("div", { class: "head" }, h("h2", {}, code(spec.name)), kind(spec.op_type)),
    h("p", {}, spec.description),
    h(
      "p",
      { class: "dim" },
      "Asks for ",
      needs(spec.access_control),
      ". ",
      spec.tags.map((tag) => [badge(tag), " "]),
    ),
    h("form", { novalidate: true, on: { submit } }, form.node, h("div", { class: "actions" }, go, halt)),
    output,
    spec.error_schemas.length > 0 &&
      h("details", {}, h("summary", {}, "Errors"), h("ul", {}, spec.error_schemas.map((one) => h("li", {}, badge(one.code, "bad"), " ", one.description)))),
    schema("Input schema", spec.input_schema),
    schema("Output schema", spec.output_schema),
  );
  return { node, stop };
}

function schema(title, value) {
  return h("details", {}, h("summary", {}, title), h("pre", { tabindex: "0" }, JSON.stringify(value, null, 2)));
}

/** The form, and the same as JSON to those who prefer that. */
function input(spec) {
  const fields = field(spec.input_schema, true);
  const raw = field({}, true);
  const problem = h("p", { class: "said", role: "alert" });
  const plain = kindOf(spec.input_schema) === "json";
  let asJson = plain;
  const place = h("div", {});
  raw.node.rows = 8;
  raw.node.setAttribute("aria-label", "Input as JSON");
  if (spec.examples?.length) raw.write(spec.examples[0]);

  const toggle = h("button", { type: "button", class: "link", hidden: plain, on: { click: swap } });
  function show() {
    setText(toggle, asJson ? "Edit as a form" : "Edit as JSON");
    replace(place, asJson ? raw.node : fields.node);
  }
  function swap() {
    const value = read();
    if (value === NOTHING) return;
    asJson = !asJson;
    (asJson ? raw : fields).write(value);
    show();
  }

  function read() {
    replace(problem);
    try {
      return (asJson ? raw : fields).read();
    } catch (error) {
      replace(problem, error.message.startsWith("is ") ? `The input ${error.message}` : error.message);
      document.getElementById(error.field ?? raw.id)?.focus();
      return NOTHING;
    }
  }

  const examples = (spec.examples ?? []).map((example, i) =>
    h(
      "button",
      {
        type: "button",
        class: "link",
        title: JSON.stringify(example),
        on: {
          click: () => {
            replace(problem);
            raw.write(example);
            if (!plain) fields.write(example);
          },
        },
      },
      spec.examples.length > 1 ? `Example ${i + 1}` : "Fill in the example",
    ),
  );
  show();
  return {
    node: h("div", {}, h("div", { class: "tools" }, h("h3", {}, "Input"), h("span", { class: "grow" }), examples, toggle), place, problem),
    read,
  };
}

async function call(client, name, value, signal, output) {
  const start = performance.now();
  const took = () => latency((performance.now() - start) / 1000);
  const status = h("p", { class: "status dim", role: "status" }, "Waiting…");
  replace(output, h("h3", {}, "Output"), status);
  try {
    const answer = await client.call(name, value, signal);
    setText(status, `Answered in ${took()}.`);
    output.append(pretty(answer));
  } catch (error) {
    setText(status, signal.aborted ? `After ${took()}.` : `Failed after ${took()}.`);
    throw error;
  }
}

async function follow(client, name, value, signal, output) {
  const status = h("p", { class: "status dim", role: "status" }, "Waiting for the first item…");
  const items = h("ol", { class: "events" });
  let number = 0;
  replace(output, h("h3", {}, "Items, newest first"), status, items);
  for await (const item of client.subscribe(name, value, signal)) {
    number += 1;
    setText(status, `${plural(number, "item")}.`);
    items.prepend(h("li", {}, h("span", { class: "dim" }, time(Date.now())), pretty(item)));
    if (items.children.length > ITEMS) items.lastChild.remove();
  }
  setText(status, `${plural(number, "item")}. Completed.`);
}

function pretty(value) {
  const text = JSON.stringify(value, null, 2);
  const cut = text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${text.length - LONGEST} more characters` : text;
  return h("pre", { tabindex: "0" }, cut);
}

function trouble(error) {
  const shown = failure(error);
  if (error.details !== null && error.details !== undefined) shown.append(pretty(error.details));
  return shown;
}
