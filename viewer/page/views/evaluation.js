/** The records of evaluation.json as a table: a row for each policy evaluated. */

import { h, svg } from "../parts/dom.js";
import { count, fixed, isNumber, NOTHING, percent } from "../parts/format.js";
import { table, th } from "../parts/pieces.js";
import { inline } from "../parts/text.js";

/** The accuracy and its 95 % interval on a line from 0 to 1. @param {any} record */
function interval({ accuracy, ci95 }) {
  const [low, high] = ci95 ?? [];
  if (!isNumber(accuracy)) return null;
  const x = (/** @type {number} */ value) => (3 + 134 * value).toFixed(1);
  return svg(
    "svg",
    { class: "interval", width: 140, height: 14, "aria-hidden": "true" },
    svg("line", { class: "grid", x1: 3, x2: 137, y1: 7, y2: 7 }),
    isNumber(low) && isNumber(high) && svg("line", { class: "range", x1: x(low), x2: x(high), y1: 7, y2: 7 }),
    svg("circle", { cx: x(accuracy), cy: 7, r: 2.5 }),
  );
}

/** @param {any} record */
function accuracy(record) {
  const [low, high] = record?.ci95 ?? [];
  return [percent(record?.accuracy), isNumber(low) && h("span", { class: "muted" }, ` ${percent(low)}–${percent(high)}`)];
}

/**
 * @param {any[]} records @param {string} label of the table
 * @returns {HTMLElement}
 */
export function evaluationTable(records, label = "Evaluation") {
  const abilities = [...new Set(records.flatMap((record) => Object.keys(record.by_ability ?? {})))];
  const needs = records.some((record) => Object.keys(record.by_need ?? {}).length);
  const head = [
    th("Policy"),
    th("Temperature", "number"),
    th("Episodes", "number"),
    h("th", { scope: "colgroup", colspan: 2 }, "Accuracy, 95 % interval"),
    th("Calls: mean, variance", "number"),
    needs && ["Use if needed", "Use if not needed", "Accuracy: tool needed", "Accuracy: not needed"].map((name) => th(name, "number")),
    abilities.map((name) => h("th", { scope: "col", class: "number" }, "Accuracy: ", inline(name))),
  ];
  return table(
    label,
    head,
    records.map((record) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, h("span", { title: record.policy }, inline(record.label ?? NOTHING))),
        h("td", { class: "number" }, fixed(record.temperature, 1)),
        h("td", { class: "number" }, count(record.episodes)),
        h("td", { class: "number" }, accuracy(record)),
        h("td", { class: "plot-cell" }, interval(record)),
        h(
          "td",
          { class: "number" },
          fixed(record.calls_per_episode?.mean),
          h("span", { class: "muted" }, `, ${fixed(record.calls_per_episode?.var)}`),
        ),
        needs &&
          ["tool_use", "accuracy"].flatMap((figure) =>
            ["needed", "not_needed"].map((need) => h("td", { class: "number" }, percent(record.by_need?.[need]?.[figure]))),
          ),
        abilities.map((name) => h("td", { class: "number" }, percent(record.by_ability?.[name]?.accuracy))),
      ),
    ),
  );
}
