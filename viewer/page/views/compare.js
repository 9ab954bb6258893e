/** Two runs: their curves over each other, their evaluations, and a task that both met. */

import { api } from "../parts/api.js";
import { chart } from "../charts/chart.js";
import { alarms, chosenStage, curves } from "../charts/curves.js";
import { smoothing } from "../charts/smoothing.js";
import { h, replace } from "../parts/dom.js";
import { count, percent } from "../parts/format.js";
import { choices, failure, paging, table, th } from "../parts/pieces.js";
import { current, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { episodeColumn, question } from "./episode.js";
import { evaluationTable } from "./evaluation.js";
import { glance } from "./group.js";
import { inOrder } from "./item.js";

const LIMIT = 20;

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
        onchange: (/** @type {any} */ event) => setQuery({ [side]: event.target.value, task: null, offset: null }),
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
  const [metrics, evaluations] = await Promise.all([
    Promise.all(ids.map((id) => api.metrics(id, signal))),
    Promise.all(ids.map((id) => api.evaluation(id, signal))),
  ]);
  const both = [...new Set(metrics.flatMap((one) => Object.keys(one.stages)))];
  const stageChoice = choices("Stage", (stage) => setQuery({ stage }));
  const smooth = smoothing();
  const grid = h("div", { class: "charts" });
  const records = evaluations.flatMap((one, index) =>
    (one.records ?? []).map((/** @type {any} */ record) => ({ ...record, label: `${ids[index]} · ${record.label}` })),
  );
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
    h("section", { "aria-labelledby": "h-shared" }, h("h2", { id: "h-shared" }, "Tasks that both met"), tasksBox, taskBox),
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
    stages.forEach((stage, side) => {
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
        merged.set(curve.title, data);
      }
    });
    replace(
      grid,
      [...merged.values()].map((data) => chart({ ...data, smooth: weight, alarms: [...new Set(data.alarms)] }).element),
      !merged.size && h("p", { class: "muted" }, "Neither has metrics."),
    );
  }

  let listed = "";
  let opened = "";
  /** @param {Record<string, string>} query */
  async function tasks(query) {
    const offset = Math.max(0, Number(query.offset) || 0);
    if (listed !== String(offset)) {
      listed = String(offset);
      const shared = await api.compare(a, b, { offset, limit: LIMIT }, signal);
      const rows = (shared.tasks ?? []).map((/** @type {any} */ one) => (typeof one === "string" ? { task_id: one } : one));
      // A list of names alone comes whole, and is cut into pages here.
      const page = rows.length > LIMIT ? rows.slice(offset, offset + LIMIT) : rows;
      replace(
        tasksBox,
        !page.length
          ? h("p", { class: "muted" }, "They have no task in common.")
          : [
              paging({ total: shared.total ?? shared.shared_tasks, offset, limit: LIMIT, shown: page.length }, (to) =>
                setQuery({ offset: to || null }),
              ),
              table(
                "Tasks that both met",
                [
                  th("Task"),
                  ...ids.flatMap((id) => [
                    h("th", { scope: "col", class: "number" }, "Right: ", inline(id)),
                    h("th", { scope: "col" }, "In"),
                  ]),
                ],
                page.map((/** @type {any} */ one) =>
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
                    [one.a ?? {}, one.b ?? {}].map((side) => [
                      h(
                        "td",
                        { class: "number" },
                        percent(side.accuracy, 0),
                        h("span", { class: "muted" }, ` of ${count(side.episodes)}`),
                      ),
                      h("td", null, inline(side.name ?? "–")),
                    ]),
                  ),
                ),
              ),
            ],
      );
    }
    if (opened === (query.task ?? "")) return;
    opened = query.task ?? "";
    replace(taskBox);
    if (!opened) return;
    const met = await Promise.all(ids.map((id) => api.item(id, opened, signal)));
    const groups = await Promise.all(
      met.map((item, side) => {
        const last = lastMet(item);
        return last ? api.group(ids[side], last.group_id, last.name, signal) : null;
      }),
    );
    replace(
      taskBox,
      h("h3", null, inline(opened)),
      question(a, groups[0] ?? met[0]),
      groups.map((group, side) =>
        h(
          "section",
          { class: "side", "aria-label": ids[side] },
          h("h3", null, inline(ids[side]), h("span", { class: "muted" }, ` ${lastMet(met[side])?.name ?? ""}`)),
          group
            ? [
                glance(group.episodes),
                h(
                  "div",
                  { class: "columns" },
                  group.episodes.map((/** @type {any} */ one, /** @type {number} */ index) =>
                    episodeColumn(ids[side], { name: lastMet(met[side]).name, ...one }, index),
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

/** An episode of the task as the run met it last, with its tools and their outputs. @param {any} item */
function lastMet({ episodes }) {
  return inOrder(episodes).findLast((one) => !one.variant) ?? episodes.at(-1);
}
