/** One episode as a column: its outcome at the top, then turn by turn what was written and what came back. */

import { api } from "../parts/api.js";
import { h } from "../parts/dom.js";
import { count, duration, fixed, isNumber, signed } from "../parts/format.js";
import { highlighted } from "../parts/highlight.js";
import { picture, verdict } from "../parts/pieces.js";
import { link } from "../parts/route.js";
import { block, inline } from "../parts/text.js";

/** @param {string | null | undefined} reason */
export function ending(reason) {
  return String(reason ?? "–")
    .toLowerCase()
    .replaceAll("_", " ");
}

/** @param {any} episode */
function facts(episode) {
  const seconds = { model: 0, tools: 0 };
  for (const turn of episode.turns) {
    seconds.model += turn.generate_s ?? 0;
    for (const call of turn.tool_calls ?? []) seconds.tools += call.latency_s ?? 0;
  }
  const source = {
    recorded: "as the learner recorded it",
    group: "calculated here: the reward minus the group's mean, over its standard deviation",
    "not learned from": "the episode was not learned from: it was cut off or not chosen, its question could not be put, or all was rejected",
    "unknown part": "the reward has a part that the records lack, and a run's own code is not run here",
  }[/** @type {string} */ (episode.advantage_source)];
  /** @type {[string, import("../parts/dom.js").Child][]} */
  const pairs = [
    [
      "Advantage",
      h(
        "span",
        { title: source },
        signed(episode.advantage),
        episode.advantage_source === "group" && h("span", { class: "muted" }, " (calculated)"),
        episode.advantage_source === "not learned from" && h("span", { class: "muted" }, " not learned from"),
        episode.advantage_source === "unknown part" &&
          h("span", { class: "muted" }, " not known: its reward has a part that is not recorded"),
      ),
    ],
    ["Tokens", [count(episode.sampled_tokens), h("span", { class: "muted" }, ` of ${count(episode.token_count)}`)]],
    ["Model", duration(seconds.model)],
    ["Tools", duration(seconds.tools)],
    ["End", inline(ending(episode.stop_reason))],
  ];
  return h(
    "dl",
    { class: "facts-line" },
    pairs.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
  );
}

/** @param {any} episode */
function parts(episode) {
  const entries = Object.entries(episode.reward_parts ?? {});
  if (!entries.length) return null;
  return h(
    "div",
    { class: "parts" },
    entries.map(([name, value]) =>
      h("span", { class: "part" }, inline(name), " ", h("b", null, isNumber(value) ? fixed(value) : "–")),
    ),
  );
}

/**
 * @param {string} run @param {any} episode @param {number} index
 * @returns {HTMLElement}
 */
export function episodeColumn(run, episode, index) {
  const tokens = link(["runs", run, "tokens", episode.episode_id], { name: episode.name });
  return h(
    "article",
    {
      class: `episode ${episode.correct === true ? "is-right" : episode.correct === false ? "is-wrong" : ""}`,
      tabindex: "0",
      "data-stop": true,
      "data-episode": episode.episode_id,
      "data-tokens": tokens,
      "aria-label": `Episode ${episode.episode_id}`,
    },
    h(
      "header",
      { class: "episode-head" },
      h(
        "div",
        { class: "episode-line" },
        h("h2", null, h("span", { class: "muted" }, `${index + 1} `), verdict(episode.correct)),
        h("a", { href: tokens }, "Tokens"),
      ),
      h(
        "div",
        { class: "episode-answer" },
        episode.answer === null || episode.answer === undefined
          ? h("span", { class: "muted" }, "no answer")
          : inline(String(episode.answer).slice(0, 200)),
        h(
          "span",
          { class: "muted" },
          ` · ${fixed(episode.reward)} · ${count(episode.calls)} ${episode.calls === 1 ? "call" : "calls"}`,
        ),
      ),
    ),
    facts(episode),
    parts(episode),
    episode.problems?.map((/** @type {string} */ problem) => h("p", { class: "warn" }, inline(problem))),
    episode.error && h("div", { class: "failure" }, block(String(episode.error), { label: "error" })),
    h(
      "ol",
      { class: "turns" },
      episode.turns.map((/** @type {any} */ turn, /** @type {number} */ number) => turnItem(run, episode, turn, number)),
    ),
  );
}

/** @param {string} run @param {any} episode @param {any} turn @param {number} number */
function turnItem(run, episode, turn, number) {
  /** @param {string} field */
  const whole = (field) =>
    turn.cut
      ? async () =>
          String((await api.episode(run, episode.episode_id, { name: episode.name, whole: 1 })).turns[number][field] ?? "")
      : null;
  /** @param {string} field @param {string} text */
  const cut = (field, text) => (text.length >= 60_000 ? whole(field) : null);
  const calls = turn.tool_calls ?? [];
  const answered = Boolean(turn.observation || turn.images?.length || calls.length);
  return h(
    "li",
    { class: "turn" },
    turn.reasoning &&
      h(
        "details",
        { class: "reasoning" },
        h("summary", null, "Thoughts"),
        block(turn.reasoning, { whole: cut("reasoning", turn.reasoning), label: "thought" }),
      ),
    h(
      "div",
      { class: "action" },
      block(turn.action ?? "", {
        render: highlighted,
        whole: cut("action", turn.action ?? ""),
        label: "action",
        className: "code",
      }),
    ),
    h("div", { class: "turn-facts muted" }, `model ${duration(turn.generate_s)}`),
    answered &&
      h(
        "div",
        { class: "observation" },
        h(
          "div",
          { class: "turn-facts" },
          calls.map((/** @type {any} */ call) =>
            h(
              "span",
              null,
              h("span", { class: "tag" }, inline(call.tool)),
              " ",
              h("span", { class: call.status === "ok" ? "good" : "bad" }, inline(call.status)),
              h("span", { class: "muted" }, ` ${duration(call.latency_s)}`),
            ),
          ),
        ),
        turn.observation
          ? block(turn.observation, { whole: cut("observation", turn.observation), label: "output" })
          : !turn.images?.length && h("p", { class: "muted" }, "no output"),
        pictures(run, turn.images, `turn ${number + 1}`),
      ),
  );
}

/** @param {string} run @param {string[] | undefined} images @param {string} of */
export function pictures(run, images, of) {
  return images?.length
    ? h(
        "div",
        { class: "pictures" },
        images.map((sha, index) => picture(run, sha, `Image ${index + 1} of ${of}`)),
      )
    : null;
}

/** The question, with its images. @param {string} run @param {any} of anything with a question */
export function question(run, of) {
  const { text = "", images = [] } = typeof of.question === "string" ? { text: of.question } : (of.question ?? {});
  return h(
    "section",
    { class: "question-box", "aria-label": "Question" },
    text ? block(text, { label: "question" }) : h("p", { class: "muted" }, "The record has no text of the question."),
    pictures(run, images, "the question"),
  );
}
