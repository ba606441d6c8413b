// Numbers and names for people.

const none = "–";

const known = (value) => value !== undefined && value !== null && Number.isFinite(value);

/** `1,234`. */
export function count(value) {
  return known(value) ? value.toLocaleString("en") : none;
}

/** `1 peer`, `2 peers`. */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

/** So many each second. */
export function rate(value) {
  if (!known(value)) return none;
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(value < 1 ? 2 : 1);
  return Math.round(value).toLocaleString("en");
}

/** A latency that is given in seconds. */
export function latency(seconds) {
  if (!known(seconds)) return none;
  if (seconds < 0.000_999_5) return `${significant(seconds * 1e6)} µs`;
  if (seconds < 0.999_5) return `${significant(seconds * 1e3)} ms`;
  return `${significant(seconds)} s`;
}

/** A bound of latency in seconds: a round number, written as one. */
export function within(seconds) {
  return latency(seconds).replace(/(\.\d*?)0+ /, (_, part) => `${part === "." ? "" : part} `);
}

function significant(value) {
  if (value >= 100) return Math.round(value).toString();
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Bytes in binary units. */
export function bytes(value) {
  if (!known(value)) return none;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A span that is given in seconds, in its two largest units. */
export function span(seconds) {
  if (!known(seconds)) return none;
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3_600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [Math.floor(seconds) % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0 s";
  const shown = parts.slice(first, first + 2).filter(([value]) => value > 0);
  return shown.map(([value, unit]) => `${value} ${unit}`).join(" ");
}

const two = (value) => String(value).padStart(2, "0");

/** The time of day. */
export function time(unixMs) {
  const at = new Date(unixMs);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Date and time. */
export function moment(unixMs) {
  const at = new Date(unixMs);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time(unixMs)}`;
}

/** The beginning of a key's fingerprint. */
export function fingerprint(text) {
  const [kind, rest] = text.split(":");
  return rest ? `${kind}:${rest.slice(0, 8)}…` : `${text.slice(0, 8)}…`;
}

/** What an operation asks of its caller. */
export function needs(access) {
  const parts = [];
  const all = access?.required_scopes ?? [];
  const any = access?.required_scopes_any;
  if (all.length) parts.push(all.join(" and "));
  if (any) parts.push(any.length ? any.join(" or ") : "a scope of an empty list");
  if (access?.resource_type || access?.resource_action) {
    parts.push(`${access.resource_action ?? "a right"} on a ${access.resource_type ?? "resource"}`);
  }
  return parts.length ? parts.join("; ") : "nothing";
}
