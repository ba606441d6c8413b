// Who may call what, and why.

import { badge, code, empty, failure, h, marked, panel, replace, setText } from "./dom.js";
import { count, fingerprint, moment } from "./format.js";

const PAGE = 25;
const KINDS = { anonymous: "nobody", peer: "peer", api_key: "API key" };

export function access(page, { client }) {
  const place = h("div", {});
  const side = h("div", { class: "side", "aria-live": "polite" });
  const pages = h("div", { class: "tools" });
  let offset = 0;
  let matrix = null;
  let text = "";

  const filter = h("input", {
    type: "search",
    placeholder: "Filter operations",
    "aria-label": "Filter operations",
    on: {
      input: () => {
        text = filter.value.trim().toLowerCase();
        draw();
      },
    },
  });

  async function load() {
    try {
      matrix = await client.call("node/access", { offset, limit: PAGE });
      draw();
    } catch (error) {
      replace(place, failure(error, load));
    }
  }

  function draw() {
    if (!matrix) return;
    const rows = matrix.operations.map((name, i) => [name, i]).filter(([name]) => name.toLowerCase().includes(text));
    replace(place, rows.length ? grid(matrix, rows, why) : empty("No operation has that in its name."));
    const last = Math.min(offset + PAGE, matrix.total);
    const turn = (label, to, enabled) =>
      h("button", { type: "button", disabled: !enabled, on: { click: () => ((offset = to), load()) } }, label);
    replace(
      pages,
      matrix.total > PAGE && [
        turn("Previous", offset - PAGE, offset > 0),
        h("span", { class: "dim" }, `Identities ${offset + 1} to ${last} of ${count(matrix.total)}`),
        turn("Next", offset + PAGE, last < matrix.total),
      ],
    );
  }

  async function why(identity, operation) {
    replace(side, panel("Why", h("p", { class: "dim" }, "Asking…")));
    try {
      const answer = await client.call("node/acl-why", { identity, operation });
      replace(side, explain(identity, operation, answer));
    } catch (error) {
      replace(side, failure(error, () => why(identity, operation)));
    }
    side.scrollIntoView({ block: "nearest" });
  }

  replace(
    page,
    h(
      "div",
      { class: "split" },
      panel(
        null,
        h("div", { class: "tools" }, filter, h("span", { class: "legend" }, h("span", { class: "yes" }, "✓"), " may call ", h("span", { class: "no" }, "·"), " may not")),
        place,
        pages,
      ),
      side,
    ),
  );
  replace(side, panel("Why", h("p", { class: "dim" }, "Choose a cell: the rule that decides, and the lines of the node’s files that say so, show here.")));
  load();
}

function heading(one) {
  const about = [one.name, one.scopes.length ? `scopes: ${one.scopes.join(", ")}` : "no scopes"];
  if (one.expires_at) about.push(`until ${moment(one.expires_at * 1000)}`);
  const keys = one.fingerprints.map((key) => fingerprint(key));
  return h(
    "th",
    { scope: "col", title: [...about, ...keys].filter(Boolean).join("\n") },
    h("span", { class: "id" }, one.id),
    h("span", { class: "dim" }, KINDS[one.kind] ?? one.kind),
    !one.active && badge("inactive", "warn"),
  );
}

/** A grid with one tab stop; arrows move in it. */
function grid(matrix, rows, why) {
  const { identities, rules } = matrix;
  const cells = [];
  const body = rows.map(([name, index], y) => {
    const line = identities.map((one, x) => {
      const rule = rules[one.decisions[index]];
      const said = rule.allowed ? "may" : "may not";
      const button = h(
        "button",
        {
          type: "button",
          class: rule.allowed ? "yes" : "no",
          tabindex: x === 0 && y === 0 ? "0" : "-1",
          title: rule.rule,
          "aria-label": `${one.id} ${said} call ${name}: ${rule.rule}`,
          on: { click: () => (focus(x, y), why(one.id, name)) },
        },
        rule.allowed ? "✓" : "·",
      );
      return button;
    });
    cells.push(line);
    return h("tr", {}, h("th", { scope: "row" }, code(name)), line.map((button) => h("td", {}, button)));
  });

  let at = [0, 0];
  function focus(x, y) {
    const next = cells[y]?.[x];
    if (!next) return;
    cells[at[1]][at[0]].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    at = [x, y];
  }
  function move(event) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    focus(at[0] + dx, at[1] + dy);
  }

  return h(
    "div",
    { class: "scroll matrix" },
    h(
      "table",
      { on: { keydown: move } },
      h("caption", { class: "hidden" }, "Who may call what; arrow keys move between the cells"),
      h("thead", {}, h("tr", {}, h("td", {}), identities.map(heading))),
      h("tbody", {}, body),
    ),
  );
}

function explain(identity, operation, answer) {
  const verdict = h("p", { class: "verdict" });
  setText(verdict, `${identity} ${answer.allowed ? "may call" : "may not call"} ${operation}`);
  const steps = answer.steps.map((step) => [
    h("p", {}, badge(step.allowed ? "allowed" : (step.code ?? "refused"), step.allowed ? "good" : "bad"), " ", marked(step.rule)),
    h(
      "ul",
      { class: "grounds" },
      step.grounds.map((one) => h("li", {}, marked(one.says), one.file && h("div", { class: "dim" }, code(where(one))))),
    ),
  ]);
  return panel("Why", verdict, steps);
}

function where({ file, line, column }) {
  return line ? `${file}:${line}:${column}` : file;
}
