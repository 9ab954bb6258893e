/** What tools are worth: the figures of ablation.json, of the referee and of med.json, if an evaluation wrote them. */

import { h } from "../parts/dom.js";
import { count, isNumber, percent } from "../parts/format.js";
import { table, th } from "../parts/pieces.js";
import { inline } from "../parts/text.js";

/** What an effect on a task means. @type {Record<string, string>} */
export const EFFECTS = {
  gained: "right more often with the tools and their outputs than with this taken away",
  harmed: "right less often with the tools and their outputs than with this taken away",
  "either way": "right as often with this taken away",
  never: "never right, with or without it",
};

/** @type {[string, string, boolean?][]} field, heading, whether it is a difference */
const NECESSITY = [
  ["only_with", "Right only with it"],
  ["anyway", "Right either way"],
  ["broken_by", "Right only without it"],
  ["never", "Never right"],
  ["accuracy_without", "Accuracy without"],
  ["difference", "Difference", true],
];
/** @type {[string, string, boolean?][]} */
const USE = [
  ["answer_changes", "Answer changes"],
  ["accuracy_real", "Accuracy, real outputs"],
  ["accuracy_then", "Accuracy then"],
  ["difference", "Difference", true],
];
/** @type {[string, string, boolean?][]} */
const MED = [
  ["accuracy", "Accuracy"],
  ["accuracy_without", "Without tools"],
  ["change", "Change", true],
  ["intrinsic", "Intrinsic", true],
  ["by_tools", "By tools", true],
  ["less_harm", "Less harm", true],
];

/** A share or a difference, which is a number or has an interval. @param {any} given @param {boolean} [signed] */
function figure(given, signed = false) {
  const value = isNumber(given) ? given : (given?.share ?? given?.value);
  const [low, high] = given?.ci95 ?? [];
  const one = (/** @type {unknown} */ part) => `${signed && isNumber(part) && part > 0 ? "+" : ""}${percent(part)}`;
  return h(
    "td",
    { class: "number" },
    isNumber(value) ? one(value) : "–",
    isNumber(low) && isNumber(high) && h("span", { class: "muted" }, ` ${one(low)} to ${one(high)}`),
  );
}

/**
 * @param {string} label @param {string[]} head @param {[string, string, boolean?][]} columns
 * @param {[any[], any][]} rows the first cells of each, and its figures
 */
function figures(label, head, columns, rows) {
  const shown = columns.filter(([field]) => rows.some(([, of]) => of?.[field] !== undefined && of[field] !== null));
  return [
    h("h3", null, label),
    table(
      label,
      [head.map((one) => th(one)), shown.map(([, heading]) => th(heading, "number"))],
      rows.map(([cells, of]) =>
        h(
          "tr",
          null,
          cells.map((cell, index) => (index ? h("td", null, cell) : h("th", { scope: "row" }, cell))),
          shown.map(([field, , signed]) => figure(of?.[field], signed)),
        ),
      ),
    ),
  ];
}

/** The parts of ablation.json whose figures include one. @param {any} ablation @param {string} field @returns {[any[], any][]} */
function parts(ablation, field) {
  return Object.entries(ablation ?? {}).flatMap(([name, of]) =>
    Object.entries(of && typeof of === "object" ? of : {})
      .filter(([, values]) => values && typeof values === "object" && field in values)
      .map(([part, values]) => /** @type {[any[], any]} */ ([[inline(name), part.replaceAll("_", " "), count(values.episodes)], values])),
  );
}

/**
 * @param {any} answer of the server about the evaluation
 * @returns {import("../parts/dom.js").Child}
 */
export function ablationTables({ ablation, med, records = [] }) {
  const judged = records.filter((/** @type {any} */ one) => one.referee && typeof one.referee === "object");
  const necessity = parts(ablation, "only_with");
  const use = parts(ablation, "answer_changes");
  const checkpoints = Array.isArray(med?.checkpoints) ? med.checkpoints.filter(Boolean) : [];
  return [
    judged.length > 0 &&
      figures(
        "The referee",
        ["Policy", "Items"],
        [
          ["accuracy", "Accuracy"],
          ["accuracy_without", "Without tools"],
          ["difference", "Difference", true],
          ["labelled", "Adaptive, by label"],
          ["measured", "Adaptive, by what was measured"],
          ["gain", "Gain of tools"],
          ["harm", "Harm of tools"],
        ],
        judged.map(({ label, referee }) => [
          [inline(label ?? "–"), count(referee.items)],
          {
            ...referee,
            labelled: referee.adaptiveness_labelled?.mean,
            measured: referee.adaptiveness_measured?.mean,
            gain: referee.tool_effect?.gain,
            harm: referee.tool_effect?.harm,
          },
        ]),
      ),
    necessity.length > 0 && figures("Necessity: tools taken away", ["Taken away", "Tasks", "Episodes"], NECESSITY, necessity),
    use.length > 0 && figures("Causal use: outputs taken away", ["Taken away", "Tasks", "Episodes with a call"], USE, use),
    checkpoints.length > 0 && [
      figures(
        "MED: what each checkpoint gained",
        ["Checkpoint", "Items"],
        MED,
        checkpoints.map((/** @type {any} */ one) => [[inline(one.name ?? "–"), count(one.items)], one]),
      ),
      isNumber(med.tool_share) && h("p", { class: "facts" }, `${percent(med.tool_share)} of the change is due to tools.`),
    ],
  ];
}
