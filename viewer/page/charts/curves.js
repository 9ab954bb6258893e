/** Which curves a run shows: metric names, as `docs/training.md` lists them, gathered into charts. */

import { isNumber, plural } from "../parts/format.js";

/**
 * @typedef {import("./chart.js").Series} Series
 * @typedef {{steps: number[], series: Record<string, import("./scale.js").Values>}} Stage
 * @typedef {{title: string, unit?: string, log?: boolean, series: Series[], names: string[]}} Curve `names` are those of its metrics
 * @typedef {{title: string, unit?: string, log?: boolean, pick: [string | RegExp, string?][], spread?: string, used?: boolean}} Plan `used` leaves out what is always 0
 */

/** Labels: "$1" is what the pattern's group matched; without a label it is the whole name. @type {Plan[]} */
const PLANS = [
  {
    title: "Reward",
    pick: [
      ["critic/score/mean", "all episodes"],
      ["reward/with_tools", "with a call"],
      ["reward/without_tools", "without"],
    ],
  },
  {
    title: "Accuracy",
    pick: [
      ["reward/accuracy", "all"],
      [/^ability\/([^/]+)\/reward\/accuracy$/, "$1"],
    ],
  },
  {
    title: "Calls per episode",
    unit: "mean ± std",
    pick: [["tools/calls_per_episode/mean", "all"]],
    spread: "tools/calls_per_episode/std",
  },
  { title: "Calls by ability", unit: "mean", pick: [[/^ability\/([^/]+)\/tools\/calls_per_episode\/mean$/, "$1"]] },
  {
    title: "Use of tools",
    unit: "share of episodes",
    pick: [
      ["by_need/needed/tool_use", "tool needed"],
      ["by_need/not_needed/tool_use", "not needed"],
    ],
  },
  {
    title: "Accuracy by need",
    pick: [
      ["by_need/needed/accuracy", "tool needed"],
      ["by_need/not_needed/accuracy", "not needed"],
    ],
  },
  { title: "Tools", unit: "share of episodes", pick: [[/^tools\/([^/]+)\/frequency$/, "$1"]] },
  {
    title: "Failed calls",
    unit: "share of calls",
    used: true,
    pick: [
      [/^tools\/([^/]+)\/error_rate$/, "$1"],
      [/^tools\/([^/]+\/errors\/.+)$/, "$1"],
    ],
  },
  { title: "Sampled tokens", unit: "per episode", pick: [["response_length/mean", "mean"]] },
  {
    title: "Sampler − learner",
    unit: "log-probability",
    log: true,
    pick: [
      ["rollout/logprob_gap", "mean"],
      ["rollout/logprob_gap_max", "largest"],
    ],
  },
  { title: "Time", unit: "seconds per step", pick: [[/^timing_s\/(rollout|learn|sync|step|update_weights)$/, "$1"]] },
  {
    title: "Time in an episode",
    unit: "seconds",
    pick: [
      ["timing_s/generate", "generate"],
      ["timing_s/tool", "tools"],
    ],
  },
  { title: "Staleness", unit: "versions", pick: [[/^(?:.*\/)?(.*(?:stale|version_lag|off_policy).*)$/, "$1"]] },
  { title: "Ends", unit: "share of episodes", used: true, pick: [[/^stop_reason\/(.+)$/, "$1"]] },
  {
    title: "Entropy",
    pick: [
      ["rollout/entropy", "sampled"],
      ["actor/entropy", "learned from"],
    ],
  },
  {
    title: "Gradient norm",
    pick: [
      ["actor/grad_norm", "policy"],
      ["train/grad_norm", "supervised"],
    ],
  },
  { title: "Loss", pick: [["train/loss", "supervised"]] },
  {
    title: "Learning rate",
    pick: [
      ["train/lr", "supervised"],
      ["actor/lr", "policy"],
    ],
  },
];

/**
 * The charts whose figures the stage has, and the titles of those that it has not.
 * @param {Stage} stage
 * @returns {{curves: Curve[], missing: string[]}}
 */
export function curves(stage) {
  const names = Object.keys(stage.series);
  const abilities = [...new Set(names.flatMap((name) => name.match(/^ability\/([^/]+)\//)?.[1] ?? []))];
  /** @type {Curve[]} */
  const found = [];
  /** @type {string[]} */
  const missing = [];
  for (const plan of PLANS) {
    const chosen = plan.pick.flatMap(([wanted, label]) =>
      names
        .filter((name) => (typeof wanted === "string" ? name === wanted : wanted.test(name)))
        .filter((name) => stage.series[name].some(isNumber))
        .map((name) => ({ name, label: label ? (typeof wanted === "string" ? label : name.replace(wanted, label)) : name })),
    );
    const series = chosen.map(({ name, label }) => line(stage, name, label, plan.spread));
    // An ability keeps its colour from chart to chart.
    for (const one of series) if (abilities.includes(one.label)) one.hue = (1 + abilities.indexOf(one.label)) % 8;
    const used = plan.used ? series.filter((one) => one.values.some((value) => value)) : series;
    if (series.length)
      found.push({
        title: plan.title,
        unit: plan.unit,
        log: plan.log,
        series: used.length ? used : series.slice(0, 1),
        names: chosen.map(({ name }) => name),
      });
    else missing.push(plan.title);
  }
  return { curves: found, missing };
}

/** @param {Stage} stage @param {string} name @param {string} label @param {string} [spread] @returns {Series} */
export function line(stage, name, label, spread) {
  return {
    label,
    steps: stage.steps,
    values: stage.series[name] ?? [],
    ...(spread && stage.series[spread] ? { spread: stage.series[spread] } : {}),
  };
}

/** Steps at which an alarm of collapse rang, for all episodes or for an ability. @param {Stage} stage @returns {number[]} */
export function alarms(stage) {
  const rings = Object.entries(stage.series)
    .filter(([name]) => name.endsWith("tools/collapse_alarm"))
    .map(([, values]) => values);
  return stage.steps.filter((_, index) => rings.some((values) => (values[index] ?? 0) > 0));
}

/** What in metrics.jsonl is shown in no curve; empty if nothing is. @param {{unreadable: number, half: boolean}} metrics */
export function unshown({ unreadable, half }) {
  const parts = [unreadable && `${plural(unreadable, "line")} unreadable`, half && "the last line half-written"].filter(Boolean);
  return parts.length ? `metrics.jsonl: ${parts.join(", ")}` : "";
}

/** The stage that a page opens with: RL if there is any. @param {Record<string, Stage>} stages @param {string} [wanted] */
export function chosenStage(stages, wanted) {
  const names = Object.keys(stages);
  if (wanted && names.includes(wanted)) return wanted;
  return names.includes("rl") ? "rl" : names.at(-1);
}
