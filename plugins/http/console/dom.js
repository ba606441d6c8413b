// Elements. Data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/** An HTML element; `on` holds listeners, strings and numbers become text. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Puts children in the place of what is there. */
export function replace(node, ...children) {
  node.replaceChildren();
  append(node, children);
}

/** Changes a text only where it differs, so that selections survive. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Brings the children of `parent` in line with `items`, keeping what is there:
 * focus, scroll and selection stay where they are.
 */
export function keyed(parent, items, key, create) {
  const known = parent.keyed ?? (parent.keyed = new Map());
  const seen = new Set();
  let previous = null;
  for (const item of items) {
    const id = key(item);
    let entry = known.get(id);
    if (!entry) {
      entry = create(item);
      known.set(id, entry);
    }
    seen.add(id);
    entry.update?.(item);
    const expected = previous ? previous.nextSibling : parent.firstChild;
    if (expected !== entry.node) parent.insertBefore(entry.node, expected);
    previous = entry.node;
  }
  for (const [id, entry] of known) {
    if (!seen.has(id)) {
      entry.node.remove();
      known.delete(id);
    }
  }
}

/** A table; a column is a label, or `{label, numeric, extra}`. Returns its body, too. */
export function table(caption, columns, attributes = {}) {
  const body = h("tbody");
  const head = columns.map((column) => {
    const { label, numeric, extra, cell } = typeof column === "string" ? { label: column } : column;
    const kind = [numeric && "num", extra && "extra"].filter(Boolean).join(" ");
    return h("th", { scope: "col", class: kind || null }, cell ?? label);
  });
  const node = h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", attributes, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), body),
  );
  return { node, body };
}

/** A titled block of a page. */
export function panel(title, ...children) {
  return h("section", { class: "panel" }, title && h("h2", {}, title), children);
}

/** A word with a colour; the word says it all without it. */
export function badge(text, tone = "plain", title = null) {
  return h("span", { class: `badge ${tone}`, title }, text);
}

/** What stands where there is nothing. */
export function empty(text, hint = null) {
  return h("div", { class: "empty" }, h("p", {}, text), hint && h("p", { class: "dim" }, hint));
}

/** A failure, in the words that the node has for it. */
export function failure(error, retry = null) {
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("p", {}, h("strong", {}, error.code ?? "Error"), " ", marked(error.message)),
    retry && h("button", { type: "button", on: { click: retry } }, "Try again"),
  );
}

/** Terms and what they are. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", { class: "facts" }, shown.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
}

/** A text of the node's, in which names stand between backquotes. */
export function marked(text) {
  return text.split("`").map((part, i) => (i % 2 ? code(part) : part));
}

/** A text in the type of code. */
export function code(text, attributes = {}) {
  return h("code", attributes, text);
}
