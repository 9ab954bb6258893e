/** One task wherever the run met it: step by step, in evaluations, with tools or their outputs taken away. */

import { api } from "../parts/api.js";
import { h } from "../parts/dom.js";
import { count, fixed, percent } from "../parts/format.js";
import { dot, need, table, tags, th } from "../parts/pieces.js";
import { link } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { EFFECTS } from "./ablation.js";
import { question } from "./episode.js";

/**
 * Steps first, in order, then evaluations, then what an ablation took away.
 * @param {any[]} episodes
 */
export function inOrder(episodes) {
  const last = (/** @type {any} */ one) => (one.variant ? 2 : typeof one.step === "number" ? 0 : 1);
  return episodes.toSorted((a, b) => last(a) - last(b) || (a.step ?? 0) - (b.step ?? 0));
}

/** @type {import("../app.js").MakeView} */
export async function itemView(route, signal) {
  const [, run, , task] = route.path;
  const { name = "" } = route.query;
  const item = await api.item(run, task, signal);
  /** @type {Map<string, any[]>} */
  const groups = new Map();
  for (const episode of inOrder(item.episodes)) {
    const key = JSON.stringify([episode.name, episode.group_id]);
    groups.set(key, [...(groups.get(key) ?? []), episode]);
  }
  const first = item.episodes[0] ?? {};
  const shownEffects = Object.keys(item.effects ?? {}).length ? item.effects : null;
  return {
    content: h(
      "div",
      null,
      h("div", { class: "view-head" }, h("h1", null, inline(task))),
      h(
        "p",
        { class: "facts" },
        "Ability ",
        tags(first.abilities),
        " · needs ",
        need(first.needed_tools),
        ` · met in ${count(groups.size)} ${groups.size === 1 ? "place" : "places"}`,
      ),
      question(run, item),
      table(
        "Where the run met this task",
        [
          th("Name"),
          th("Stage or ablation"),
          th("Step", "number"),
          th("Right", "number"),
          th("Calls per episode", "number"),
          th("Reward", "number"),
          shownEffects && th("Effect of the tools"),
          th("Answers"),
          th("Episodes: right or wrong, with calls"),
        ],
        [...groups.values()].map((episodes) => row(run, episodes, name, shownEffects)),
      ),
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: run, href: link(["runs", run]) },
      ...(name ? [{ text: name, href: link(["runs", run, "tasks"], { name }) }] : []),
      { text: task, href: link(route.path, route.query) },
    ],
  };
}

/** @param {string} run @param {any[]} episodes @param {string} here @param {Record<string, string> | null} effects */
function row(run, episodes, here, effects) {
  const { name, group_id: group, stage, step, variant } = episodes[0];
  const average = (/** @type {string} */ field) => episodes.reduce((sum, one) => sum + (one[field] ?? 0), 0) / episodes.length;
  const judged = episodes.filter((one) => typeof one.correct === "boolean");
  const answers = [...new Set(episodes.map((one) => (one.answer === null ? "none" : String(one.answer).slice(0, 40))))];
  return h(
    "tr",
    { class: name === here ? "here" : null },
    h("th", { scope: "row" }, h("a", { href: link(["runs", run, "group", group], { name }), "data-stop": true }, inline(name))),
    h("td", null, inline(variant ?? stage ?? "–")),
    h("td", { class: "number" }, count(step)),
    h("td", { class: "number" }, judged.length ? percent(judged.filter((one) => one.correct).length / judged.length, 0) : "–"),
    h("td", { class: "number" }, fixed(average("calls"))),
    h("td", { class: "number" }, fixed(average("reward"))),
    effects && h("td", null, effects[name] ? h("span", { class: "tag", title: EFFECTS[effects[name]] }, effects[name]) : null),
    h(
      "td",
      { class: "clip" },
      answers.slice(0, 4).flatMap((answer, index) => [index > 0 && ", ", inline(answer)]),
      answers.length > 4 && ` and ${answers.length - 4} more`,
    ),
    h(
      "td",
      { class: "dots" },
      episodes.map((one) =>
        h("a", { href: link(["runs", run, "group", group], { name, episode: one.episode_id }) }, dot(one.correct, one.calls)),
      ),
    ),
  );
}
