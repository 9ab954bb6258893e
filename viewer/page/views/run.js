/** One run: how it was evaluated, its curves, and the steps whose episodes are recorded. */

import { api } from "../parts/api.js";
import { chart } from "../charts/chart.js";
import { alarms, chosenStage, curves, line, unshown } from "../charts/curves.js";
import { smoothing } from "../charts/smoothing.js";
import { h, joined, replace } from "../parts/dom.js";
import { count, fixed, isNumber, percent, plural } from "../parts/format.js";
import { follow } from "../parts/live.js";
import { choices, failure, readings, table, th, unread } from "../parts/pieces.js";
import { current, go, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { ablationTables } from "./ablation.js";
import { evaluationTable } from "./evaluation.js";

/** @type {import("../app.js").MakeView} */
export async function runView(route, signal) {
  const run = route.path[1];
  const [runs, loaded, evaluation, named] = await Promise.all([
    api.runs(signal),
    api.metrics(run, signal),
    api.evaluation(run, signal),
    api.names(run, signal),
  ]);
  const about = runs.find((/** @type {any} */ one) => one.id === run) ?? {};
  let metrics = loaded;
  let { names, indexed } = named;
  const facts = h("p", { class: "facts" });
  const evaluated = h("section", { "aria-labelledby": "h-evaluation" });
  const recorded = h("section", { "aria-labelledby": "h-recorded" });
  const curveBox = curveSection(
    run,
    () => metrics,
    () => names,
  );

  /** @param {any} answer */
  function drawEvaluation(answer) {
    const records = answer.records ?? [];
    replace(
      evaluated,
      h("h2", { id: "h-evaluation" }, "Evaluation"),
      records.length
        ? evaluationTable(records)
        : h("p", { class: "muted" }, answer.unreadable ? "evaluation.json cannot be read: it is half-written, or none." : "Not evaluated yet."),
      ablationTables(answer),
    );
  }

  function drawFacts() {
    const planned = about.steps_planned && about.stage === "rl" ? ` of ${count(about.steps_planned)}` : "";
    // Steps are numbered from 0: as many are over as the number after the last one.
    const over = isNumber(about.step) && `${about.stage ?? ""}: ${count(about.step + 1)}${planned} steps`;
    replace(
      facts,
      joined(
        [
          about.tasks && inline(about.tasks),
          about.policy && ["from ", inline(about.policy)],
          over,
          plural(indexed.episodes, "episode"),
          ...unread(indexed).map((text) => h("strong", { class: "bad" }, text)),
          ...readings(indexed).map((text) => h("span", { class: "muted" }, text)),
        ].filter(Boolean),
        " · ",
      ),
    );
  }

  function drawNames() {
    const old = recorded.querySelector(".table-box");
    const scrolled = old?.scrollTop ?? 0;
    const focused = old?.contains(document.activeElement) ? document.activeElement?.getAttribute("href") : null;
    replace(
      recorded,
      h("h2", { id: "h-recorded" }, "Recorded episodes"),
      names.length
        ? table(
            "Recorded episodes",
            [
              th("Name"),
              th("Stage"),
              th("Step", "number"),
              th("Episodes", "number"),
              th("Tasks", "number"),
              names.some((/** @type {any} */ one) => isNumber(one.accuracy)) && th("Accuracy", "number"),
              names.some((/** @type {any} */ one) => isNumber(one.calls)) && th("Calls per episode", "number"),
            ],
            names.map((/** @type {any} */ one) => nameRow(run, one, names)),
          )
        : h("p", { class: "muted" }, "No episodes are recorded."),
    );
    const box = recorded.querySelector(".table-box");
    if (!box) return;
    box.classList.add("tall");
    box.scrollTop = scrolled;
    if (focused)
      /** @type {HTMLElement | null} */ (box.querySelector(`a[href="${CSS.escape(focused)}"]`))?.focus({ preventScroll: true });
  }

  drawFacts();
  drawEvaluation(evaluation);
  drawNames();
  curveBox.draw(route.query);
  const stop = follow(run, about, async (changed) => {
    // Some of the curves may be calculated from the episodes.
    if (changed.includes("metrics") || changed.includes("index")) metrics = await api.metrics(run, signal);
    if (changed.includes("evaluation")) drawEvaluation(await api.evaluation(run, signal));
    if (changed.includes("names") || changed.includes("index")) {
      ({ names, indexed } = await api.names(run, signal));
      drawFacts();
      drawNames();
    }
    curveBox.draw(current().query);
  });

  const others = runs.filter((/** @type {any} */ one) => one.id !== run);
  const compare =
    others.length > 0 &&
    h(
      "select",
      {
        "aria-label": "Compare with",
        onchange: (/** @type {any} */ event) => event.target.value && go(link(["compare"], { a: run, b: event.target.value })),
      },
      h("option", { value: "" }, "Compare with …"),
      others.map((/** @type {any} */ one) => h("option", { value: one.id }, one.id)),
    );
  return {
    content: h(
      "div",
      null,
      h("div", { class: "view-head" }, h("h1", null, inline(run)), compare),
      facts,
      evaluated,
      curveBox.element,
      recorded,
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: run, href: link(["runs", run]) },
    ],
    update: (next) => curveBox.draw(next.query),
    close: stop,
  };
}

/** @param {string} run @param {any} one @param {any[]} names */
function nameRow(run, one, names) {
  return h(
    "tr",
    null,
    h(
      "th",
      { scope: "row" },
      h("a", { href: link(["runs", run, "tasks"], { name: one.name }), "data-stop": true }, inline(one.name)),
      one.unfinished && h("span", { class: "live" }, "being written"),
    ),
    h("td", null, inline(one.stage ?? "–")),
    h("td", { class: "number" }, count(one.step)),
    h("td", { class: "number" }, count(one.episodes)),
    h("td", { class: "number" }, count(one.groups)),
    names.some((other) => isNumber(other.accuracy)) && h("td", { class: "number" }, percent(one.accuracy)),
    names.some((other) => isNumber(other.calls)) && h("td", { class: "number" }, fixed(one.calls)),
  );
}

/**
 * The curves with their choices: stage, smoothing, further metrics.
 * @param {string} run @param {() => any} metricsNow @param {() => any[]} namesNow
 */
function curveSection(run, metricsNow, namesNow) {
  const stageChoice = choices("Stage", (stage) => setQuery({ stage }, { push: true }));
  const smooth = smoothing();
  const metric = h("input", {
    type: "search",
    list: "metric-names",
    placeholder: "Add a curve: metric …",
    "aria-label": "Metric to add as a curve",
    size: 32,
  });
  const options = h("datalist", { id: "metric-names" });
  const notes = h("div");
  const counting = h("p", { class: "muted" }, "Steps count from 0, as in metrics.jsonl; on the terminal and in the report from 1.");
  const broken = h("p", { class: "muted" });
  const grid = h("div", { class: "charts" });
  const element = h(
    "section",
    { "aria-labelledby": "h-curves" },
    h("h2", { id: "h-curves" }, "Curves"),
    h("div", { class: "toolbar" }, stageChoice.element, smooth.element, metric, options),
    counting,
    notes,
    broken,
    grid,
  );
  /** @type {Map<string, ReturnType<typeof chart>>} */
  let charts = new Map();

  metric.addEventListener("change", () => {
    const picked = (current().query.m ?? "").split(",").filter(Boolean);
    if (metricsNow().names.includes(metric.value) && !picked.includes(metric.value))
      setQuery({ m: [...picked, metric.value].join(",") });
    else if (metric.value) replace(notes, failure(`No metric is named ${metric.value}.`));
    metric.value = "";
  });

  /** @param {Record<string, string>} query */
  function draw(query) {
    const { stages, names: metricNames, derived = [] } = metricsNow();
    const stageName = chosenStage(stages, query.stage);
    const left = unshown(metricsNow());
    replace(broken, left);
    broken.hidden = !left;
    counting.hidden = !stageName;
    if (!stageName) {
      replace(grid, h("p", { class: "muted" }, "No metrics yet: this is no run of toolwise train, or its first step is not over."));
      return;
    }
    const stage = stages[stageName];
    stageChoice.show(
      Object.keys(stages).map((name) => [name, name]),
      stageName,
    );
    const weight = smooth.show(query);
    if (options.childElementCount !== metricNames.length)
      replace(
        options,
        metricNames.map((/** @type {string} */ name) => h("option", { value: name })),
      );

    const { curves: standard, missing } = curves(stage);
    const picked = (query.m ?? "").split(",").filter((name) => metricNames.includes(name));
    const rings = alarms(stage);
    const recorded = namesNow().filter((one) => one.stage === stageName && isNumber(one.step));
    replace(
      notes,
      rings.length
        ? h(
            "p",
            { class: "warn" },
            `The alarm of collapse rang at ${rings.length === 1 ? "step" : "steps"} ${ranges(rings)} (marked in the curves).`,
          )
        : null,
    );
    const shown = [
      ...picked.map((name) => ({
        key: `m:${name}`,
        title: name,
        series: [line(stage, name, "value")],
        remove: () => setQuery({ m: picked.filter((one) => one !== name).join(",") }),
      })),
      ...standard.map((one) => ({
        ...one,
        key: one.title,
        note: one.names.some((name) => derived.includes(name)) ? "calculated from the episodes" : undefined,
      })),
    ];
    const next = new Map();
    for (const { key, ...data } of shown) {
      const full = { ...data, smooth: weight, alarms: rings, ...(recorded.length ? { onstep: open } : {}) };
      const old = charts.get(key);
      if (old) old.update(full);
      next.set(key, old ?? chart(full));
    }
    const kept = [...next.values()].map((one) => one.element);
    const same = grid.children.length >= kept.length && kept.every((one, index) => grid.children[index] === one);
    if (!same || next.size !== charts.size)
      replace(
        grid,
        kept,
        missing.length > 0 &&
          h("p", { class: "muted missing" }, `Not in this stage's metrics: ${missing.map((one) => one.toLowerCase()).join(", ")}.`),
      );
    charts = next;

    /** Opens the recorded step at or, if it is not recorded itself, the nearest to the one that was chosen. @param {number} step */
    function open(step) {
      const nearest = recorded.reduce((best, one) => (Math.abs(one.step - step) < Math.abs(best.step - step) ? one : best));
      // Dynamic sampling plays a step in several draws, each under a name of its own.
      const draws = recorded.filter((one) => one.step === nearest.step).map((one) => one.name);
      go(link(["runs", run, "tasks"], { name: draws.join(",") }));
    }
  }
  return { element, draw };
}

/** "3–5, 9" @param {number[]} steps */
function ranges(steps) {
  /** @type {[number, number][]} */
  const found = [];
  for (const step of steps) {
    const last = found.at(-1);
    if (last && step === last[1] + 1) last[1] = step;
    else found.push([step, step]);
  }
  return found.map(([first, last]) => (first === last ? first : `${first}–${last}`)).join(", ");
}
