// What went wrong lately.

import { badge, code, empty, failure, h, keyed, panel, replace, table } from "./dom.js";
import { latency, moment, time } from "./format.js";

export const INCIDENT_COLUMNS = ["Time", "Code", "Operation", "Caller", "Why"];

/** One error or refusal; it never changes. A brief one says why where it is pointed at. */
export function incidentRow(incident, brief = false) {
  const error = incident.kind === "error";
  const why = error ? `failed after ${latency(incident.micros / 1e6)}` : incident.rule;
  const caller = incident.caller ?? (incident.connection ? `connection ${incident.connection}` : null);
  const reason = why ?? "refused before it began";
  const node = h(
    "tr",
    { title: brief ? reason : null },
    h("td", { class: "time", title: moment(incident.unix_ms) }, time(incident.unix_ms)),
    h("td", {}, badge(incident.code, error ? "bad" : "warn", error ? "The call failed" : "The call was refused")),
    h("td", {}, incident.operation ? code(incident.operation) : h("span", { class: "dim" }, "–")),
    h(
      "td",
      {},
      caller ?? h("span", { class: "dim" }, "nobody"),
      incident.internal && h("span", { class: "dim" }, " (composed)"),
    ),
    !brief && h("td", { class: "dim why" }, reason),
  );
  return { node };
}

const KINDS = [
  ["all", "All"],
  ["error", "Errors"],
  ["refusal", "Refusals"],
];

export function recent(page, app) {
  const { live, client } = app;
  const list = table("Errors and refusals, newest first", INCIDENT_COLUMNS);
  const place = h("div", {});
  let kind = "all";

  const choices = KINDS.map(([value, label]) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "kind",
        value,
        checked: value === kind,
        on: {
          change: () => {
            kind = value;
            draw();
          },
        },
      }),
      h("span", {}, label),
    ),
  );

  function draw() {
    const shown = live.incidents.filter((one) => kind === "all" || one.kind === kind);
    keyed(list.body, shown, (one) => one.seq, (one) => incidentRow(one));
    if (shown.length) {
      if (list.node.parentNode !== place) replace(place, list.node);
    } else {
      replace(place, empty("Nothing has gone wrong.", "Errors of calls, refused calls and unknown tokens show here as they happen."));
    }
  }

  async function load() {
    try {
      live.remember((await client.call("node/recent")).incidents);
      draw();
    } catch (error) {
      replace(place, failure(error, load));
    }
  }

  replace(
    page,
    panel(
      null,
      h("fieldset", { class: "choice" }, h("legend", { class: "hidden" }, "Show"), choices),
      h("p", { class: "dim" }, "The node remembers the last 256 of each kind. The audit log, where it is on, has them all."),
      place,
    ),
  );
  draw();
  load();
  return live.listen(draw);
}
