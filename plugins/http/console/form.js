// Forms from JSON Schema. What a form cannot express is edited as JSON.

import { code, h, replace } from "./dom.js";

/** What is left out. */
export const NOTHING = Symbol("nothing");

const DEEPEST = 4;
let ids = 0;
const fresh = () => `field-${(ids += 1)}`;

/** Whether a part of a schema only says which fields go together: the node checks that. */
const restricts = (part) => Object.keys(part).every((key) => ["required", "not", "description"].includes(key));

/** Whether a value of this schema has more than one shape. */
function varies(schema) {
  const parts = ["oneOf", "anyOf", "allOf"].flatMap((key) => schema[key] ?? []);
  return "$ref" in schema || "if" in schema || !parts.every(restricts);
}

/** The fields that this schema gets; `json` where it gets none. */
export function kindOf(schema, depth = 0) {
  if (typeof schema !== "object" || schema === null || depth > DEEPEST) return "json";
  if (schema.const !== undefined) return "const";
  if (Array.isArray(schema.enum)) return schema.enum.length ? "enum" : "json";
  if (varies(schema)) return "json";
  switch (schema.type) {
    case "string":
    case "integer":
    case "number":
    case "boolean":
      return schema.type;
    case "array":
      return kindOf(schema.items, depth + 1) === "json" || schema.prefixItems ? "json" : "array";
    case "object": {
      const fields = Object.keys(schema.properties ?? {});
      const free = schema.additionalProperties !== false && !fields.length;
      return free && depth > 0 ? "json" : "object";
    }
    default:
      return "json";
  }
}

/** A field for values of `schema`: `{node, id, read(), write(value)}`. */
export function field(schema, required, depth = 0) {
  const kind = kindOf(schema, depth);
  const make = { const: constant, enum: choice, string: line, integer: numeric, number: numeric, boolean: flag, array: list, object: object_ }[kind];
  return (make ?? json)(schema, required, depth);
}

const isOptional = (required) => !required;
const said = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function constant(schema, required) {
  const id = fresh();
  return {
    id,
    node: h("output", { id }, code(said(schema.const))),
    read: () => (required ? schema.const : NOTHING),
    write() {},
  };
}

function choice(schema, required) {
  const id = fresh();
  const none = schema.default === undefined ? "–" : `default: ${said(schema.default)}`;
  const options = schema.enum.map((value, i) => h("option", { value: i }, said(value)));
  const node = h("select", { id }, isOptional(required) && h("option", { value: "" }, none), options);
  const index = (value) => schema.enum.findIndex((one) => JSON.stringify(one) === JSON.stringify(value));
  if (required && schema.default !== undefined) node.value = String(index(schema.default));
  return {
    id,
    node,
    read: () => (node.value === "" ? NOTHING : schema.enum[Number(node.value)]),
    write(value) {
      const found = value === NOTHING ? -1 : index(value);
      node.value = found < 0 ? (required ? "0" : "") : String(found);
    },
  };
}

function line(schema, required) {
  const id = fresh();
  const long = (schema.maxLength ?? 0) > 200 || schema.contentMediaType;
  const hint = schema.default === undefined ? "" : `default: ${schema.default}`;
  const attributes = { id, minlength: schema.minLength, maxlength: schema.maxLength, placeholder: hint, spellcheck: "false", autocomplete: "off" };
  const node = long ? h("textarea", { ...attributes, rows: 4 }) : h("input", { type: "text", ...attributes });
  if (required && schema.default !== undefined) node.value = schema.default;
  return {
    id,
    node,
    // An empty text is a value where one is asked for.
    read: () => (node.value === "" && !required ? NOTHING : node.value),
    write(value) {
      node.value = value === NOTHING ? "" : String(value);
    },
  };
}

function numeric(schema, required) {
  const id = fresh();
  const node = h("input", {
    id,
    type: "number",
    step: schema.type === "integer" ? (schema.multipleOf ?? 1) : "any",
    min: schema.minimum,
    max: schema.maximum,
    placeholder: schema.default === undefined ? "" : `default: ${schema.default}`,
    required,
  });
  if (required && schema.default !== undefined) node.value = schema.default;
  return {
    id,
    node,
    read() {
      if (node.validity.badInput) throw new Error("is no number");
      return node.value === "" ? NOTHING : Number(node.value);
    },
    write(value) {
      node.value = value === NOTHING ? "" : String(value);
    },
  };
}

function flag(schema, required) {
  const like = { enum: [true, false], default: schema.default ?? (required ? false : undefined) };
  return choice(like, required);
}

function list(schema, required, depth) {
  const id = fresh();
  const items = h("div", { class: "items" });
  let fields = [];
  let given = required;
  const add = (value = NOTHING) => {
    const one = field(schema.items, true, depth + 1);
    if (value !== NOTHING) one.write(value);
    fields.push(one);
    given = true;
    const drop = h("button", { type: "button", "aria-label": "Remove this item", title: "Remove this item" }, "×");
    const node = h("div", { class: "item" }, one.node, drop);
    drop.addEventListener("click", () => {
      fields = fields.filter((other) => other !== one);
      given = required || fields.length > 0;
      node.remove();
    });
    items.append(node);
    return one;
  };
  const more = h("button", { type: "button", id, on: { click: () => document.getElementById(add().id)?.focus() } }, "Add an item");
  return {
    id,
    node: h("div", { class: "list" }, items, more),
    read: () => (given ? fields.map((one) => one.read()) : NOTHING),
    write(value) {
      fields = [];
      replace(items);
      given = required || Array.isArray(value);
      if (Array.isArray(value)) value.forEach((one) => add(one));
    },
  };
}

function object_(schema, required, depth) {
  const id = fresh();
  const needed = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, one]) => [name, field(one, needed.has(name), depth + 1), one]);
  // Those that must be there come first.
  fields.sort((a, b) => needed.has(b[0]) - needed.has(a[0]));
  const rows = fields.map(([name, one, own]) => row(name, one, own, needed.has(name)));
  const node =
    depth === 0
      ? h("div", { class: "fields", id }, rows.length ? rows : h("p", { class: "dim" }, "It takes no input."))
      : h("fieldset", { id }, rows);
  return {
    id,
    node,
    read() {
      const value = {};
      for (const [name, one] of fields) {
        let own;
        try {
          own = one.read();
        } catch (error) {
          throw error.field ? error : Object.assign(new Error(`${name} ${error.message}`), { field: one.id });
        }
        if (own !== NOTHING) value[name] = own;
      }
      return Object.keys(value).length || required || depth === 0 ? value : NOTHING;
    },
    write(value) {
      const given = value === NOTHING || typeof value !== "object" || value === null ? {} : value;
      for (const [name, one] of fields) one.write(name in given ? given[name] : NOTHING);
    },
  };
}

function row(name, one, schema, required) {
  const bounds = [];
  if (schema.type && !["array", "object"].includes(schema.type)) bounds.push([].concat(schema.type).join(" or "));
  if (schema.minimum !== undefined || schema.maximum !== undefined) bounds.push(`${schema.minimum ?? ""} to ${schema.maximum ?? ""}`.trim());
  if (schema.pattern) bounds.push(schema.pattern);
  const hint = `${one.id}-hint`;
  const about = (schema.description || bounds.length > 0) && h("p", { class: "hint", id: hint }, schema.description && [schema.description, " "], h("span", { class: "dim" }, bounds.join(", ")));
  const control = one.node.matches("input, select, textarea") ? one.node : one.node.querySelector("input, select, textarea");
  if (about) control?.setAttribute("aria-describedby", hint);
  return h(
    "div",
    { class: "field" },
    h("label", { for: one.id }, code(name), required && h("span", { class: "required", title: "required" }, " required")),
    one.node,
    about,
  );
}

function json(schema, required) {
  const id = fresh();
  const start = schema?.default === undefined ? "" : JSON.stringify(schema.default, null, 2);
  const node = h("textarea", { id, rows: 4, class: "json", spellcheck: "false", placeholder: required ? "JSON" : "JSON, or nothing", autocomplete: "off" });
  node.value = required ? start : "";
  return {
    id,
    node,
    read() {
      if (node.value.trim() === "") {
        if (required) throw new Error("is required: write JSON");
        return NOTHING;
      }
      try {
        return JSON.parse(node.value);
      } catch (error) {
        throw new Error(`is no JSON: ${error.message}`);
      }
    },
    write(value) {
      node.value = value === NOTHING ? "" : JSON.stringify(value, null, 2);
    },
  };
}
