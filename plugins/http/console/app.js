// Signing in, the frame around the sections, and moving between them.

import { Client } from "./api.js";
import { h, replace, setText } from "./dom.js";
import { span } from "./format.js";
import { Live } from "./live.js";
import { access } from "./access.js";
import { connections } from "./connections.js";
import { explorer } from "./explorer.js";
import { operations } from "./operations.js";
import { overview } from "./overview.js";
import { plugins } from "./plugins.js";
import { recent } from "./recent.js";

const SECTIONS = [
  { id: "overview", label: "Overview", view: overview, observes: true },
  { id: "plugins", label: "Plugins", view: plugins, observes: true },
  { id: "connections", label: "Connections", view: connections, observes: true },
  { id: "operations", label: "Operations", view: operations, observes: true },
  { id: "recent", label: "Recent", view: recent, observes: true },
  { id: "explorer", label: "Explorer", view: explorer, observes: false },
  { id: "access", label: "Access", view: access, observes: true },
];

const root = document.getElementById("app");

const mark = () => h("span", { class: "mark" }, h("img", { src: "icon.svg", alt: "", width: 24, height: 24 }), "alknet");

/** Whoever the client calls as, and what it may see; throws what the node says. */
async function meet(client) {
  const { identity } = await client.call("services/whoami");
  if (!identity) return { identity, status: null };
  try {
    return { identity, status: await client.call("node/status") };
  } catch (error) {
    if (error.code === "FORBIDDEN") return { identity, status: null };
    throw error;
  }
}

/** Asks for a token. It stays in this page's memory: closing or reloading forgets it. */
function signIn(message = null) {
  document.title = "Sign in – alknet console";
  const token = h("input", {
    id: "token",
    type: "password",
    name: "token",
    autocomplete: "current-password",
    autocapitalize: "off",
    spellcheck: "false",
    required: true,
    placeholder: "alk_…",
    "aria-describedby": "token-hint",
  });
  const said = h("div", { class: "said", role: "alert" }, message);
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const other = h("div", { class: "other" });

  async function submit(event) {
    event.preventDefault();
    replace(said);
    button.disabled = true;
    try {
      const client = new Client(token.value.trim());
      const who = await meet(client);
      token.value = "";
      enter(client, who);
    } catch (error) {
      const text = error.status === 401 ? "The node knows no such token, or it has expired." : error.message;
      replace(said, text);
      button.disabled = false;
      token.select();
    }
  }

  const form = h(
    "form",
    { class: "sign-in", on: { submit } },
    h("h1", {}, mark(), " console"),
    // A password manager wants a name beside the token.
    h("input", { type: "text", name: "username", autocomplete: "username", value: location.host, hidden: true }),
    h("label", { for: "token" }, "Token"),
    token,
    h(
      "p",
      { class: "dim", id: "token-hint" },
      "An operator makes one with ",
      h("code", {}, "alknet token new --scopes observe"),
      ". It needs the scope ",
      h("code", {}, "observe"),
      " or ",
      h("code", {}, "admin"),
      ", and is kept in this page alone until you leave it.",
    ),
    said,
    button,
    other,
  );
  replace(root, h("main", { id: "main", class: "door" }, form));
  token.focus();
  offerCertificate(other);
}

/** A browser with a certificate that the node knows needs no token. */
async function offerCertificate(place) {
  const client = new Client();
  try {
    const who = await meet(client);
    if (!who.identity) return;
    const go = () => enter(client, who);
    replace(
      place,
      h("button", { type: "button", on: { click: go } }, "Continue as ", who.identity.id),
      h("p", { class: "dim" }, "by this browser’s certificate"),
    );
  } catch {
    // Without an answer there is nothing to offer.
  }
}

/** The section and what of it, as in `#operations?echo%2Fsay`. */
function place(hash) {
  const [section, detail = ""] = hash.slice(1).split("?");
  try {
    return [section, decodeURIComponent(detail)];
  } catch {
    return [section, ""];
  }
}

function enter(client, { identity, status }) {
  const app = { client, identity, status, live: status ? new Live(client) : null };
  const shown = SECTIONS.filter((section) => app.live || !section.observes);
  const links = new Map(
    shown.map(({ id, label }) => [id, h("a", { href: `#${id}` }, label)]),
  );
  const main = h("main", { id: "main", tabindex: "-1" });
  const banner = h("div", { class: "banner", role: "status", hidden: true });
  const dot = h("span", { class: "state" });
  const uptime = h("span", {});
  const leave = (message = null) => {
    window.removeEventListener("hashchange", route);
    stop();
    clearInterval(waiting);
    app.live?.close();
    signIn(typeof message === "string" ? message : null);
  };
  client.onRefused = () => leave("The node does not accept the token any more.");

  let stop = () => {};
  let current = null;
  function route() {
    const [wanted, detail] = place(location.hash);
    const section = shown.find(({ id }) => id === wanted) ?? shown[0];
    if (section.id === current && !detail) return;
    const moved = current !== null;
    stop();
    for (const [id, link] of links) {
      if (id === section.id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    links.get(section.id).scrollIntoView({ block: "nearest", inline: "nearest" });
    document.title = `${section.label} – alknet console`;
    current = section.id;
    main.scrollTop = 0;
    const page = h("div", { class: `page ${section.id}` });
    replace(main, h("h1", {}, section.label), page);
    stop = section.view(page, app, detail) ?? (() => {});
    if (moved) main.focus({ preventScroll: true });
  }

  function tell(live) {
    const up = live.state === "live";
    dot.className = `state ${up ? "good" : "bad"}`;
    dot.title = up ? "Connected" : "Connection lost";
    setText(uptime, live.last ? `up ${span(live.last.uptime_seconds)}` : "");
    banner.hidden = live.state !== "lost";
    if (live.state === "lost") wait(live);
  }

  const seconds = h("span", {});
  const reason = h("span", {});
  function wait(live) {
    setText(reason, live.error?.message ?? "The node has ended the subscription.");
    setText(seconds, ` Next try in ${Math.max(Math.ceil((live.retryAt - Date.now()) / 1000), 0)} s.`);
  }
  replace(
    banner,
    h("strong", {}, "Connection lost. "),
    reason,
    seconds,
    " ",
    h("button", { type: "button", on: { click: () => app.live.retry() } }, "Retry now"),
  );
  const waiting = setInterval(() => app.live?.state === "lost" && wait(app.live), 1_000);

  const name = identity ? identity.id : "anonymous";
  replace(
    root,
    h(
      "header",
      {},
      mark(),
      status && h("span", { class: "node", title: status.node_key }, dot, h("code", {}, status.node_key.slice(0, 12)), uptime),
      h("span", { class: "who" }, h("span", { class: "dim" }, "signed in as "), h("b", {}, name)),
      h("button", { type: "button", on: { click: () => leave() } }, "Sign out"),
    ),
    h("nav", { "aria-label": "Sections" }, [...links.values()]),
    h("div", { class: "body" }, banner, main),
  );
  if (app.live) {
    app.live.listen(tell);
    app.live.run();
  }
  window.addEventListener("hashchange", route);
  route();
}

signIn();
