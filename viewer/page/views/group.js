/** The episodes of one task side by side. */

import { api } from "../parts/api.js";
import { h, joined } from "../parts/dom.js";
import { count, fixed, isNumber } from "../parts/format.js";
import { dot, need, tags } from "../parts/pieces.js";
import { current, go, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { episodeColumn, question } from "./episode.js";

/** @param {any[]} episodes @param {string} field */
function mean(episodes, field) {
  const values = episodes.map((one) => one[field]).filter(isNumber);
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

/** What differs, at a glance. @param {any[]} episodes */
export function glance(episodes) {
  const right = episodes.filter((one) => one.correct === true).length;
  return h(
    "p",
    { class: "facts" },
    joined(
      [
        `${right} of ${episodes.length} right`,
        `reward ${fixed(mean(episodes, "reward"))}`,
        `${fixed(mean(episodes, "calls"), 1)} calls`,
        `${fixed(mean(episodes, "sampled_tokens"), 0)} sampled tokens on average`,
      ],
      " · ",
    ),
  );
}

/** A bar for each episode: the longest of the group fills it. @param {any[]} episodes @param {(episode: any) => void} onpick */
function overview(episodes, onpick) {
  const longest = Math.max(1, ...episodes.map((one) => one.sampled_tokens ?? 0));
  return h(
    "div",
    { class: "overview", role: "group", "aria-label": "Episodes" },
    episodes.map((one, index) => {
      const bar = h("span", { class: "bar", "aria-hidden": "true" });
      bar.style.setProperty("--share", `${(100 * (one.sampled_tokens ?? 0)) / longest}%`);
      return h(
        "button",
        {
          type: "button",
          class: "overview-item",
          onclick: () => onpick(one),
          "aria-label": `Episode ${index + 1}: ${one.correct === true ? "right" : one.correct === false ? "wrong" : "not judged"}, ${one.calls} calls, ${one.sampled_tokens} tokens`,
        },
        h("span", { class: "muted" }, index + 1),
        dot(one.correct, one.calls),
        h("span", { class: "number" }, count(one.sampled_tokens)),
        bar,
      );
    }),
  );
}

/** @type {import("../app.js").MakeView} */
export async function groupView(route, signal) {
  const [, run, , id] = route.path;
  const { name = "" } = route.query;
  const group = await api.group(run, id, name, signal);
  const columns = h(
    "div",
    { class: "columns" },
    group.episodes.map((/** @type {any} */ one, /** @type {number} */ index) => episodeColumn(run, { name, ...one }, index)),
  );
  columns.addEventListener("focusin", (/** @type {any} */ event) => {
    const episode = event.target.closest("[data-episode]")?.dataset.episode;
    // The focus may still move here while another view is on its way: its address is not this one's to change.
    if (episode && link(current().path) === link(route.path)) setQuery({ episode });
  });
  /** @param {string | undefined} episode @param {boolean} [focus] */
  function select(episode, focus = false) {
    for (const column of columns.children) {
      const chosen = /** @type {HTMLElement} */ (column).dataset.episode === episode;
      column.classList.toggle("chosen", chosen);
      if (!chosen || !focus) continue;
      reveal(/** @type {HTMLElement} */ (column));
    }
  }
  const tokens = () => {
    const focused =
      document.activeElement?.closest("[data-tokens]") ?? columns.querySelector(".chosen") ?? columns.firstElementChild;
    const target = /** @type {HTMLElement | null} */ (focused)?.dataset.tokens;
    if (target) go(target);
  };
  select(route.query.episode);
  if (route.query.episode) requestAnimationFrame(() => select(route.query.episode, true));
  return {
    content: h(
      "div",
      null,
      h(
        "div",
        { class: "view-head" },
        h("h1", null, inline(group.task_id)),
        h("a", { class: "button", href: link(["runs", run, "item", group.task_id], { name }) }, "This task elsewhere"),
      ),
      h(
        "p",
        { class: "facts" },
        "Ability ",
        tags(group.abilities),
        " · needs ",
        need(group.needed_tools),
        " · group ",
        inline(group.group_id),
      ),
      question(run, group),
      glance(group.episodes),
      overview(group.episodes, (one) => select(one.episode_id, true)),
      columns,
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: run, href: link(["runs", run]) },
      { text: name || "Tasks", href: link(["runs", run, "tasks"], { name }) },
      { text: id, href: link(route.path, route.query) },
    ],
    update: (next) => select(next.query.episode),
    keys: { t: tokens, ArrowRight: () => move(columns, 1), ArrowLeft: () => move(columns, -1) },
  };
}

/** @param {HTMLElement} columns @param {number} by */
function move(columns, by) {
  const all = /** @type {HTMLElement[]} */ ([...columns.children]);
  const now = all.findIndex((column) => column.contains(document.activeElement));
  const next = all[Math.min(all.length - 1, Math.max(0, now + by))];
  if (next) reveal(next);
}

/** Focuses an episode and shows it: beside the others without moving the page, below the others by scrolling to it. @param {HTMLElement} column */
function reveal(column) {
  column.focus({ preventScroll: true });
  const box = column.parentElement;
  if (!box || getComputedStyle(box).gridAutoFlow !== "column") column.scrollIntoView({ block: "start" });
  else box.scrollLeft = column.offsetLeft - box.offsetLeft - (box.clientWidth - column.offsetWidth) / 2;
}
