// Small charts of the last minutes.

import { h, setText, svg } from "./dom.js";
import { time } from "./format.js";
import { WINDOW } from "./live.js";

const WIDTH = 400;
const HEIGHT = 96;
/** A longer silence than this, in milliseconds, is a gap. */
const GAP = 3_500;

/** How much time a chart of these points shows: it grows with them. */
export function shownTime(points) {
  const whole = points.length ? points.at(-1)[0] - points[0][0] : 0;
  return Math.min(Math.max(Math.ceil(whole / 60_000), 1) * 60_000, WINDOW);
}

/** A round number that is not below `value`. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 2.5, 5, 10]) {
    // Sums of tenths are a little off.
    if (value <= step * power * (1 + 1e-9)) return step * power;
  }
  return 10 * power;
}

/** Points as runs without a gap; a point without a value is a gap, too. */
export function runs(points) {
  const found = [];
  let run = [];
  for (const [at, value] of points) {
    const last = run.at(-1);
    if (last && (value === null || value === undefined || at - last[0] > GAP)) {
      found.push(run);
      run = [];
    }
    if (value !== null && value !== undefined) run.push([at, value]);
  }
  if (run.length) found.push(run);
  return found;
}

function path(run, x, y) {
  const points = run.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  // A single point is a short line.
  if (points.length === 1) points.push(`${(x(run[0][0]) + 1.5).toFixed(1)},${y(run[0][1]).toFixed(1)}`);
  return `M${points.join("L")}`;
}

/** A line without axes, for a row of a table. */
export function sparkline(label) {
  const line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  const node = svg(
    "svg",
    { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", role: "img", "aria-label": label },
    line,
  );
  return {
    node,
    update(points) {
      const end = points.at(-1)?.[0] ?? 0;
      const span = shownTime(points);
      const highest = Math.max(...points.map(([, value]) => value ?? 0), 0);
      line.classList.toggle("idle", highest === 0);
      const top = ceiling(highest);
      const x = (at) => 100 - ((end - at) / span) * 100;
      const y = (value) => 22 - (value / top) * 20;
      line.setAttribute("d", runs(points).map((run) => path(run, x, y)).join(""));
    },
  };
}

/**
 * A chart with a title, its latest values, and the values where it is pointed at.
 * Each of `series` is `{name, tone, area}`; `update` takes points for each. The top
 * is a round number of `unit`, written by `bound`.
 */
export function chart({ title, series, format, bound = format, floor = 0, unit = 1 }) {
  const areas = series.map(({ tone, area }) => area && svg("path", { class: `area ${tone}` }));
  const lines = series.map(({ tone }) =>
    svg("path", { class: `line ${tone}`, "vector-effect": "non-scaling-stroke" }),
  );
  const pointer = svg("path", { class: "pointer", "vector-effect": "non-scaling-stroke" });
  const half = svg("path", {
    class: "grid",
    d: `M0,${HEIGHT / 2}H${WIDTH}M0,1H${WIDTH}`,
    "vector-effect": "non-scaling-stroke",
  });
  const plot = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    half,
    areas.filter(Boolean),
    lines,
    pointer,
  );
  const values = series.map(() => h("b"));
  const top = h("span", { class: "top" });
  const start = h("span", {});
  const when = h("span", { class: "when" });
  const many = series.length > 1;
  const legend = series.map(({ name, tone }, i) =>
    h("span", { class: `value ${tone}` }, many && h("i", { class: `dot ${tone}` }), values[i], many && ` ${name}`),
  );
  const node = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", { class: "title" }, title), h("span", { class: "values" }, legend)),
    h("div", { class: "plot" }, plot, top),
    h("div", { class: "axis" }, start, when, h("span", {}, "now")),
  );
  let shown = series.map(() => []);
  let pointed = null;
  let span = shownTime([]);

  function tell() {
    const index = pointed === null ? null : nearest(shown[0], pointed, span);
    series.forEach((_, i) => {
      const point = index === null ? shown[i].at(-1) : shown[i][index];
      setText(values[i], point ? format(point[1]) : "–");
    });
    const at = index === null ? null : shown[0][index]?.[0];
    setText(when, at ? time(at) : "");
    const end = shown[0].at(-1)?.[0] ?? 0;
    const x = at ? WIDTH - ((end - at) / span) * WIDTH : null;
    pointer.setAttribute("d", x === null ? "" : `M${x.toFixed(1)},0V${HEIGHT}`);
  }

  function point(event) {
    const box = plot.getBoundingClientRect();
    pointed = (event.clientX - box.left) / box.width;
    tell();
  }
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerleave", () => {
    pointed = null;
    tell();
  });

  return {
    node,
    update(points) {
      shown = points;
      const end = points[0].at(-1)?.[0] ?? 0;
      const highest = Math.max(...points.flat().map(([, value]) => value ?? 0), floor);
      const scale = ceiling(highest / unit) * unit;
      span = shownTime(points[0]);
      setText(start, `${span / 60_000} min ago`);
      const x = (at) => WIDTH - ((end - at) / span) * WIDTH;
      const y = (value) => HEIGHT - 1 - (value / scale) * (HEIGHT - 2);
      points.forEach((one, i) => {
        const found = runs(one);
        lines[i].setAttribute("d", found.map((run) => path(run, x, y)).join(""));
        const bottom = (run) => `L${x(run.at(-1)[0]).toFixed(1)},${HEIGHT}L${x(run[0][0]).toFixed(1)},${HEIGHT}Z`;
        areas[i]?.setAttribute("d", found.map((run) => path(run, x, y) + bottom(run)).join(""));
      });
      setText(top, bound(scale));
      tell();
    },
  };
}

/** The index of the point that is nearest to this part of the window. */
function nearest(points, part, span) {
  if (!points.length) return null;
  const wanted = points.at(-1)[0] - (1 - part) * span;
  let best = 0;
  points.forEach(([at], i) => {
    if (Math.abs(at - wanted) < Math.abs(points[best][0] - wanted)) best = i;
  });
  return best;
}

/** Bars of a histogram of latency, from cumulative counts. */
export function histogram(buckets, total, format) {
  const bars = [];
  let below = 0;
  for (const { le, count } of buckets) {
    bars.push([`≤ ${format(le)}`, count - below]);
    below = count;
  }
  bars.push([`> ${format(buckets.at(-1)?.le)}`, Math.max(total - below, 0)]);
  const first = bars.findIndex(([, count]) => count > 0);
  const last = bars.findLastIndex(([, count]) => count > 0);
  if (first < 0) return null;
  const shown = bars.slice(Math.max(first - 1, 0), last + 2);
  const most = Math.max(...shown.map(([, count]) => count));
  const rows = shown.map(([label, count]) => {
    const bar = svg("rect", { class: "bar", width: (count / most) * 100, height: 8 });
    const plot = svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, bar);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      h("td", { class: "bars" }, plot),
      h("td", { class: "num" }, count.toLocaleString("en")),
    );
  });
  return h("table", { class: "histogram" }, h("caption", {}, "Latency"), h("tbody", {}, rows));
}
