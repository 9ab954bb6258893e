/** Two runs: their curves over each other, their evaluations, and a task that both met. */

import { api } from "../parts/api.js";
import { chart } from "../charts/chart.js";
import { alarms, chosenStage, curves, unshown } from "../charts/curves.js";
import { smoothing } from "../charts/smoothing.js";
import { h, replace } from "../parts/dom.js";
import { count, fixed, percent, plural, points } from "../parts/format.js";
import { choices, failure, paging, table, th } from "../parts/pieces.js";
import { current, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { episodeColumn, question } from "./episode.js";
import { evaluationTable } from "./evaluation.js";
import { glance } from "./group.js";
import { inOrder } from "./item.js";

const LIMIT = 20;
/** @type {[string, string][]} */
const SORTS = [
  ["", "largest difference"],
  ["-difference", "second run better"],
  ["difference", "second run worse"],
];

/** @type {import("../app.js").MakeView} */
export async function compareView(route, signal) {
  const runs = await api.runs(signal);
  const body = h("div");
  let shownPair = "";
  /** @type {{charts: (query: Record<string, string>) => void, tasks: (query: Record<string, string>) => Promise<void>} | null} */
  let pair = null;
  /** @param {"a" | "b"} side */
  const chooser = (side) =>
    h(
      "select",
      {
        "aria-label": side === "a" ? "First run" : "Second run",
        onchange: (/** @type {any} */ event) => setQuery({ [side]: event.target.value, task: null, offset: null, [`name_${side}`]: null }),
      },
      h("option", { value: "" }, "choose a run"),
      runs.map((/** @type {any} */ one) => h("option", { value: one.id }, one.id)),
    );
  const [first, second] = [chooser("a"), chooser("b")];

  /** @param {import("../app.js").Route} next */
  async function update({ query }) {
    first.value = query.a ?? "";
    second.value = query.b ?? "";
    const key = JSON.stringify([query.a, query.b]);
    try {
      if (key !== shownPair) {
        shownPair = key;
        pair = null;
        if (query.a && query.b) pair = await twoRuns(query.a, query.b, body, signal);
        else replace(body, h("p", { class: "muted" }, "Choose two runs."));
      }
      pair?.charts(query);
      await pair?.tasks(query);
    } catch (error) {
      if (!signal.aborted) replace(body, failure(error));
    }
  }
  await update(route);
  return {
    content: h(
      "div",
      null,
      h("div", { class: "view-head" }, h("h1", null, "Compare"), h("div", { class: "toolbar" }, first, " with ", second)),
      body,
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: "Compare", href: link(["compare"], route.query) },
    ],
    update,
  };
}

/** @param {string} a @param {string} b @param {HTMLElement} body @param {AbortSignal} signal */
async function twoRuns(a, b, body, signal) {
  const ids = [a, b];
  const [metrics, evaluations, names] = await Promise.all([
    Promise.all(ids.map((id) => api.metrics(id, signal))),
    Promise.all(ids.map((id) => api.evaluation(id, signal))),
    Promise.all(ids.map((id) => api.names(id, signal).then((answer) => answer.names))),
  ]);
  const both = [...new Set(metrics.flatMap((one) => Object.keys(one.stages)))];
  const stageChoice = choices("Stage", (stage) => setQuery({ stage }));
  const smooth = smoothing();
  const grid = h("div", { class: "charts" });
  // The same run on both sides, at other names: its curves and evaluations are shown once.
  const sides = a === b ? 1 : 2;
  const records = evaluations.slice(0, sides).flatMap((one, index) =>
    (one.records ?? []).map((/** @type {any} */ record) => ({ ...record, label: `${ids[index]} · ${record.label}` })),
  );
  const namesBox = h("div", { class: "toolbar" });
  const tasksBox = h("div");
  const taskBox = h("div");
  replace(
    body,
    h(
      "section",
      { "aria-labelledby": "h-eval" },
      h("h2", { id: "h-eval" }, "Evaluation"),
      records.length
        ? evaluationTable(records, "Evaluation of both runs")
        : h("p", { class: "muted" }, "Neither is evaluated yet."),
    ),
    h(
      "section",
      { "aria-labelledby": "h-both" },
      h("h2", { id: "h-both" }, "Curves"),
      h("div", { class: "toolbar" }, stageChoice.element, smooth.element),
      grid,
    ),
    h("section", { "aria-labelledby": "h-shared" }, h("h2", { id: "h-shared" }, "Tasks that both met"), namesBox, tasksBox, taskBox),
  );

  /** @param {Record<string, string>} query */
  function charts(query) {
    const weight = smooth.show(query);
    const wanted = chosenStage(Object.fromEntries(both.map((name) => [name, /** @type {any} */ (null)])), query.stage);
    stageChoice.show(
      both.map((name) => [name, name]),
      wanted,
    );
    const stages = metrics.map((one) => one.stages[wanted ?? ""] ?? { steps: [], series: {} });
    /** @type {Map<string, any>} */
    const merged = new Map();
    stages.slice(0, sides).forEach((stage, side) => {
      for (const curve of curves(stage).curves) {
        const data = merged.get(curve.title) ?? { ...curve, unit: curve.unit?.replace(" ± std", ""), series: [], alarms: [] };
        data.series.push(
          ...curve.series.map((one, index) => ({
            ...one,
            spread: undefined,
            label: `${ids[side]}: ${one.label}`,
            hue: index,
            dash: side === 1,
          })),
        );
        data.alarms.push(...alarms(stage));
        const derived = metrics[side].derived ?? [];
        if (curve.names.some((name) => derived.includes(name)))
          data.note = data.note ? "calculated from the episodes" : `of ${ids[side]} calculated from the episodes`;
        merged.set(curve.title, data);
      }
    });
    replace(
      grid,
      [...merged.values()].map((data) => chart({ ...data, smooth: weight, alarms: [...new Set(data.alarms)] }).element),
      !merged.size && h("p", { class: "muted" }, "Neither has metrics."),
      metrics.slice(0, sides).map((one, side) => unshown(one) && h("p", { class: "muted missing" }, inline(ids[side]), `: ${unshown(one)}`)),
    );
  }

  /** @param {"name_a" | "name_b"} name @param {number} side */
  const nameField = (name, side) =>
    h(
      "select",
      {
        "aria-label": `Episodes of ${side ? "the second" : "the first"} run`,
        onchange: (/** @type {any} */ event) => setQuery({ [name]: event.target.value, offset: null }),
      },
      h("option", { value: "" }, "as it met them last"),
      names[side].map((/** @type {any} */ one) => h("option", { value: one.name }, one.name)),
    );
  const order = h(
    "select",
    { "aria-label": "Order of tasks", onchange: () => setQuery({ sort: order.value, offset: null }) },
    SORTS.map(([value, text]) => h("option", { value }, text)),
  );
  /** @type {Record<string, any>} */
  const fields = { name_a: nameField("name_a", 0), name_b: nameField("name_b", 1), sort: order };
  replace(
    namesBox,
    h("label", { class: "field" }, inline(a), fields.name_a),
    h("label", { class: "field" }, inline(b), fields.name_b),
    h("label", { class: "field" }, "Order", order),
  );

  /** @param {any} shared @param {Record<string, string>} query @param {number} offset */
  function drawTasks(shared, query, offset) {
    const rows = shared.tasks;
    if (!shared.total) {
      const where = query.name_a || query.name_b ? " in these names" : "";
      replace(tasksBox, h("p", { class: "muted" }, `They have no task in common${where}.`));
      return;
    }
    /** @param {any} side */
    const cells = (side) => [
      h("td", { class: "number" }, percent(side.accuracy, 0), h("span", { class: "muted" }, ` of ${count(side.episodes)}`)),
      h("td", { class: "number" }, fixed(side.calls)),
      h("td", null, inline(side.name)),
    ];
    replace(
      tasksBox,
      h(
        "p",
        { class: "facts" },
        `On ${plural(shared.judged, "shared task")}: right ${percent(shared.a.accuracy)} and ${percent(shared.b.accuracy)}, `,
        `${fixed(shared.a.calls)} and ${fixed(shared.b.calls)} calls per episode · `,
        sides === 1 ? "the second" : inline(b),
        ` is better at ${count(shared.better)}, worse at ${count(shared.worse)}, equal at ${count(shared.equal)}`,
      ),
      paging({ total: shared.total, offset, limit: LIMIT, shown: rows.length }, (to) => setQuery({ offset: to || null })),
      table(
        "Tasks that both met",
        [
          th("Task"),
          ...ids.map((id) => [
            h("th", { scope: "col", class: "number" }, "Right: ", inline(id)),
            th("Calls", "number"),
            th("In"),
          ]),
          th("Difference", "number"),
        ],
        rows.map((/** @type {any} */ one) =>
          h(
            "tr",
            null,
            h(
              "th",
              { scope: "row", class: "question" },
              h(
                "a",
                { href: link(["compare"], { ...current().query, task: one.task_id }), "data-stop": true },
                inline(one.question || one.task_id),
              ),
              h("small", null, inline(one.task_id)),
            ),
            cells(one.a),
            cells(one.b),
            h("td", { class: `number ${one.difference > 0 ? "good" : one.difference < 0 ? "bad" : ""}` }, points(one.difference)),
          ),
        ),
      ),
    );
  }

  let listed = "";
  let opened = "";
  /** @param {Record<string, string>} query */
  async function tasks(query) {
    const offset = Math.max(0, Number(query.offset) || 0);
    for (const [name, field] of Object.entries(fields)) field.value = query[name] ?? "";
    const wanted = JSON.stringify([offset, query.name_a, query.name_b, query.sort]);
    if (listed !== wanted) {
      listed = wanted;
      const asked = { offset, limit: LIMIT, name_a: query.name_a, name_b: query.name_b, sort: query.sort };
      drawTasks(await api.compare(a, b, asked, signal), query, offset);
    }
    const chosen = [query.name_a, query.name_b];
    const key = JSON.stringify([query.task, ...chosen]);
    if (opened === key) return;
    opened = key;
    replace(taskBox);
    const { task } = query;
    if (!task) return;
    const met = await Promise.all(ids.map((id) => api.item(id, task, signal)));
    const lasts = met.map((item, side) => lastMet(item, chosen[side]));
    const groups = await Promise.all(
      lasts.map((last, side) => {
        return last ? api.group(ids[side], last.group_id, last.name, signal) : null;
      }),
    );
    replace(
      taskBox,
      h("h3", null, inline(task)),
      question(a, groups[0] ?? met[0]),
      groups.map((group, side) =>
        h(
          "section",
          { class: "side", "aria-label": ids[side] },
          h("h3", null, inline(ids[side]), h("span", { class: "muted" }, ` ${lasts[side]?.name ?? ""}`)),
          group
            ? [
                glance(group.episodes),
                h(
                  "div",
                  { class: "columns" },
                  group.episodes.map((/** @type {any} */ one, /** @type {number} */ index) =>
                    episodeColumn(ids[side], { name: lasts[side].name, ...one }, index),
                  ),
                ),
              ]
            : h("p", { class: "muted" }, "Not met."),
        ),
      ),
    );
    taskBox.scrollIntoView({ block: "nearest" });
  }
  return { charts, tasks };
}

/**
 * An episode of the task in the name that is chosen, else as the run met it last, with its tools and their outputs.
 * @param {any} item @param {string} [name]
 */
function lastMet({ episodes }, name) {
  if (name) return episodes.find((/** @type {any} */ one) => one.name === name);
  return inOrder(episodes).findLast((one) => !one.variant) ?? episodes.at(-1);
}
