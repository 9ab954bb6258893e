/** A curve over steps, drawn as SVG. The pointer or the arrow keys read a step; a click or Enter opens it. */

import { h, replace, svg } from "../parts/dom.js";
import { isNumber, number, tick } from "../parts/format.js";
import { decades, extent, smoothed, thinned, ticks } from "./scale.js";

/**
 * @typedef {import("./scale.js").Values} Values
 * @typedef {{label: string, steps: number[], values: Values, spread?: Values, hue?: number, dash?: boolean}} Series `spread` is drawn as a band of ±
 * @typedef {{title: string, unit?: string, note?: string, log?: boolean, series: Series[], alarms?: number[], smooth?: number,
 *   onstep?: (step: number) => void, remove?: () => void}} ChartData
 */

const HEIGHT = 168;
const MARGIN = { top: 8, right: 10, bottom: 20, left: 46 };

/**
 * @param {ChartData} first
 * @returns {{element: HTMLElement, update: (data: ChartData) => void}}
 */
export function chart(first) {
  let data = first;
  let width = 0;
  /** @type {number | null} */
  let at = null;
  const legend = h("div", { class: "legend" });
  const title = h("span", { class: "chart-title" });
  const where = h("span", { class: "chart-step" });
  const remove = h("button", { type: "button", class: "quiet small", hidden: true }, "Remove");
  const plot = h("div", { class: "plot", tabindex: "0", role: "slider" });
  const caption = h("figcaption", null, h("div", { class: "chart-head" }, title, where, remove), legend);
  const element = h("figure", { class: "chart" }, caption, plot);
  remove.addEventListener("click", () => data.remove?.());

  /** @type {number[]} */
  let steps = [];
  /** @type {(step: number) => number} */
  let across = () => 0;
  const guide = svg("line", { class: "guide", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
  const dots = svg("g");

  /** Shows the values of the step `at`, or the last one of each series, with its step if that is not the chart's last one. */
  function read() {
    const step = at === null ? null : steps[at];
    where.textContent = step === null || step === undefined ? "" : `step ${step}`;
    const said = data.series.map((one) => {
      const index = step === null ? lastValue(one.values) : one.steps.indexOf(step);
      if (index < 0) return { one, value: null, spread: null, earlier: null };
      const earlier = step === null && one.steps[index] !== steps.at(-1) ? `at step ${one.steps[index]}` : null;
      return { one, value: one.values[index], spread: one.spread?.[index], earlier };
    });
    replace(
      legend,
      said.map(({ one, value, spread, earlier }, index) =>
        h(
          "span",
          { class: "entry" },
          svg(
            "svg",
            { class: `swatch hue-${one.hue ?? index}`, width: 14, height: 8, "aria-hidden": "true" },
            svg("line", { x1: 0, x2: 14, y1: 4, y2: 4, class: one.dash ? "dashed" : null }),
          ),
          h("bdi", null, one.label),
          h("b", null, number(value), isNumber(spread) && ` ± ${number(spread)}`),
          earlier && h("span", { class: "muted" }, earlier),
        ),
      ),
    );
    plot.setAttribute("aria-valuenow", String(at ?? Math.max(0, steps.length - 1)));
    const values = said.map(({ one, value, earlier }) => [one.label, number(value), earlier].filter(Boolean).join(" ")).join(", ");
    plot.setAttribute("aria-valuetext", `step ${step ?? steps.at(-1) ?? 0}: ${values}`);
    guide.setAttribute("visibility", step === null ? "hidden" : "visible");
    dots.replaceChildren();
    if (step === null || step === undefined) return;
    guide.setAttribute("x1", String(across(step)));
    guide.setAttribute("x2", String(across(step)));
    said.forEach(({ one, value }, index) => {
      if (isNumber(value) && up(value) !== null)
        dots.append(svg("circle", { cx: across(step), cy: up(value), r: 3, class: `hue-${one.hue ?? index}` }));
    });
  }

  /** @type {(value: number) => number | null} */
  let up = () => null;

  function draw() {
    const { series, log = false, smooth = 0 } = data;
    steps = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
    if (width < 60) return;
    if (at !== null && at >= steps.length) at = null;
    const all = series.flatMap((one) =>
      one.values.flatMap((value, index) =>
        isNumber(value)
          ? [value, ...(isNumber(one.spread?.[index]) ? [value + one.spread[index], value - one.spread[index]] : [])]
          : [],
      ),
    );
    const [low, high] = extent(
      all.map((value) => (data.series.some((one) => one.spread) && value < 0 ? 0 : value)),
      log,
    );
    const [left, right] = [steps[0] ?? 0, Math.max(steps.at(-1) ?? 1, (steps[0] ?? 0) + 1)];
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    across = (step) => MARGIN.left + (inner.width * (step - left)) / (right - left);
    const share = log
      ? (/** @type {number} */ v) => Math.log(v / low) / Math.log(high / low)
      : (/** @type {number} */ v) => (v - low) / (high - low);
    up = (value) => (log && value <= 0 ? null : MARGIN.top + inner.height * (1 - Math.min(1, Math.max(0, share(value)))));

    const graph = svg("svg", { width, height: HEIGHT, "aria-hidden": "true" });
    for (const value of log ? decades(low, high) : ticks(low, high)) {
      const y = /** @type {number} */ (up(value));
      graph.append(
        svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
        svg("text", { class: "tick", x: MARGIN.left - 6, y: y + 3.5, "text-anchor": "end" }, tick(value)),
      );
    }
    for (const value of ticks(left, right, Math.max(2, Math.floor(inner.width / 60)))) {
      if (!Number.isInteger(value)) continue;
      graph.append(svg("text", { class: "tick", x: across(value), y: HEIGHT - 5, "text-anchor": "middle" }, value));
    }
    const alarmWidth = Math.max(2, inner.width / Math.max(1, steps.length));
    for (const step of data.alarms ?? []) {
      graph.append(
        svg("rect", { class: "alarm", x: across(step) - alarmWidth / 2, y: MARGIN.top, width: alarmWidth, height: inner.height }),
      );
    }
    series.forEach((one, index) => {
      const hue = `hue-${one.hue ?? index}`;
      const line = smoothed(one.values, smooth);
      if (one.spread) graph.append(svg("path", { class: `band ${hue}`, d: band(one, line, low, high) }));
      if (smooth) graph.append(svg("path", { class: `raw ${hue}`, d: path(one.steps, one.values) }));
      graph.append(svg("path", { class: `line ${hue}${one.dash ? " dashed" : ""}`, d: path(one.steps, line) }));
    });
    graph.append(guide, dots);
    replace(plot, graph);
  }

  /** @param {number[]} at @param {Values} values */
  function path(at, values) {
    let text = "";
    let open = false;
    let alone = null;
    for (const index of thinned(values, 2 * width)) {
      const value = values[index];
      const y = isNumber(value) ? up(value) : null;
      if (y === null) {
        if (alone) text += `h0.01`;
        open = false;
        alone = null;
        continue;
      }
      text += `${open ? "L" : "M"}${across(at[index]).toFixed(1)} ${y.toFixed(1)}`;
      alone = !open;
      open = true;
    }
    return alone ? `${text}h0.01` : text;
  }

  /** @param {Series} one @param {Values} line @param {number} low @param {number} high */
  function band(one, line, low, high) {
    const points = thinned(line, 2 * width).filter((index) => isNumber(line[index]) && isNumber(one.spread?.[index]));
    /** @param {number} sign @param {number} index */
    const edge = (sign, index) => {
      const value = Math.min(
        high,
        Math.max(low, /** @type {number} */ (line[index]) + sign * /** @type {any} */ (one.spread)[index]),
      );
      return `${across(one.steps[index]).toFixed(1)} ${(up(value) ?? HEIGHT - MARGIN.bottom).toFixed(1)}`;
    };
    if (!points.length) return "";
    return `M${points.map((index) => edge(1, index)).join("L")}L${points
      .toReversed()
      .map((index) => edge(-1, index))
      .join("L")}Z`;
  }

  function render() {
    title.replaceChildren(h("bdi", null, data.title), ...(data.unit ? [h("small", null, ` ${data.unit}`)] : []));
    if (data.note) title.append(h("small", null, ` (${data.note})`));
    remove.hidden = !data.remove;
    remove.setAttribute("aria-label", `Remove the curve ${data.title}`);
    plot.setAttribute("aria-label", `${data.title} by step${data.onstep ? "; Enter opens the step" : ""}`);
    plot.classList.toggle("opens", Boolean(data.onstep));
    draw();
    plot.setAttribute("aria-valuemin", "0");
    plot.setAttribute("aria-valuemax", String(Math.max(0, steps.length - 1)));
    read();
  }

  plot.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
    const x = event.clientX - plot.getBoundingClientRect().left;
    at = nearest(steps, across, x);
    read();
  });
  plot.addEventListener("pointerleave", () => {
    at = null;
    read();
  });
  plot.addEventListener("blur", () => {
    at = null;
    read();
  });
  plot.addEventListener("click", () => at !== null && data.onstep?.(steps[at]));
  plot.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const now = at ?? steps.length - 1;
    const moved = {
      ArrowLeft: now - 1,
      ArrowDown: now - 1,
      ArrowRight: at === null ? now : now + 1,
      ArrowUp: now + 1,
      Home: 0,
      End: steps.length - 1,
      PageUp: now + 10,
      PageDown: now - 10,
    }[event.key];
    if (event.key === "Enter" && steps.length) data.onstep?.(steps[now]);
    else if (moved !== undefined) at = Math.min(steps.length - 1, Math.max(0, moved));
    else return;
    event.preventDefault();
    event.stopPropagation();
    read();
  });
  new ResizeObserver(([entry]) => {
    const wide = Math.floor(entry.contentRect.width);
    if (Math.abs(wide - width) < 1) return;
    width = wide;
    render();
  }).observe(plot);
  render();
  return {
    element,
    update: (next) => {
      data = next;
      render();
    },
  };
}

/** @param {Values} values */
function lastValue(values) {
  return values.findLastIndex(isNumber);
}

/** Index of the step whose place is nearest to x. @param {number[]} steps @param {(step: number) => number} across @param {number} x */
function nearest(steps, across, x) {
  let best = steps.length ? 0 : null;
  steps.forEach((step, index) => {
    if (best !== null && Math.abs(across(step) - x) < Math.abs(across(steps[best]) - x)) best = index;
  });
  return best;
}
