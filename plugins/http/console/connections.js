// Who is connected.

import { code, empty, failure, h, keyed, panel, replace, setText, table } from "./dom.js";
import { bytes, count, fingerprint, latency, plural, span } from "./format.js";

const EVERY = 2_000;

const COLUMNS = [
  "Peer",
  "ALPN",
  "Plugin",
  "By",
  "Address",
  { label: "Age", numeric: true },
  { label: "RTT", numeric: true },
  { label: "Streams", numeric: true },
  { label: "Calls", numeric: true },
  { label: "Received", numeric: true },
  { label: "Sent", numeric: true },
];

export function connections(page, { client }) {
  const list = table("Connections", COLUMNS);
  const place = h("div", {});
  const total = h("p", { class: "dim", role: "status" });
  let timer = null;
  let stopped = false;

  async function load() {
    try {
      const { connections: all, total: number } = await client.call("node/connections");
      if (stopped) return;
      keyed(list.body, all, (one) => one.id, row);
      setText(total, number > all.length ? `${count(all.length)} of ${count(number)} connections` : plural(number, "connection"));
      if (!all.length) replace(place, empty("Nobody is connected."));
      else if (list.node.parentNode !== place) replace(place, list.node);
    } catch (error) {
      if (!stopped) replace(place, failure(error, load));
    }
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(load, EVERY);
  }

  replace(page, panel(null, total, place));
  load();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

function peer(one) {
  const key = one.peer && code(fingerprint(one.peer), { title: one.peer });
  if (one.identity) return [h("b", {}, one.identity), key && [" ", key]];
  return key ?? h("span", { class: "dim" }, "no key");
}

function row(one) {
  const moving = Array.from({ length: 6 }, () => h("td", { class: "num" }));
  const who = h("th", { scope: "row" });
  let identity;
  const node = h(
    "tr",
    {},
    who,
    h("td", {}, code(one.alpn)),
    h("td", {}, one.plugin),
    h("td", {}, String(one.source)),
    h("td", {}, one.address ? code(one.address) : "–"),
    moving,
  );
  return {
    node,
    update(now) {
      if (now.identity !== identity) {
        identity = now.identity;
        replace(who, peer(now));
      }
      const values = [
        span(now.age_seconds),
        now.rtt_us ? latency(now.rtt_us / 1e6) : "–",
        count(now.streams),
        count(now.calls_in_flight),
        bytes(now.bytes_received),
        bytes(now.bytes_sent),
      ];
      values.forEach((value, i) => setText(moving[i], value));
    },
  };
}
