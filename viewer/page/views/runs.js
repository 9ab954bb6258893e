/** All runs of the directories that `toolwise view` was given. */

import { api } from "../parts/api.js";
import { h, replace } from "../parts/dom.js";
import { ago, count, isNumber } from "../parts/format.js";
import { table, tags, th, unread } from "../parts/pieces.js";
import { go, link } from "../parts/route.js";
import { inline } from "../parts/text.js";

/** States of status.json that somebody should know of. */
const ENDED = ["failed", "interrupted", "dead", "silent"];
const EVERY_MS = 5000;

/** @type {import("../app.js").MakeView} */
export async function runsView(_route, signal) {
  const body = h("div");
  const chosen = new Set();
  const compare = h(
    "button",
    { type: "button", disabled: true, onclick: () => go(link(["compare"], { a: [...chosen][0], b: [...chosen][1] })) },
    "Compare two runs",
  );
  let last = "";

  /** @param {any[]} runs */
  function draw(runs) {
    const text = JSON.stringify(runs);
    if (text === last) return;
    last = text;
    const focused = document.activeElement?.getAttribute("href");
    replace(
      body,
      runs.length
        ? table(
            "Runs",
            [
              th("Compare", "narrow"),
              th("Run"),
              th("Stage"),
              th("Steps", "number"),
              th("Episodes", "number"),
              th("Evaluated as"),
              th("Tasks"),
              th("Last change"),
            ],
            runs.map(row),
          )
        : h("p", null, "There is no run here yet. ", h("code", null, "toolwise train experiment=demo"), " makes one."),
    );
    if (focused)
      /** @type {HTMLElement | null} */ (body.querySelector(`a[href="${CSS.escape(focused)}"]`))?.focus({ preventScroll: true });
  }

  /** @param {any} run */
  function row(run) {
    const pick = h("input", { type: "checkbox", "aria-label": `Compare ${run.id}`, checked: chosen.has(run.id) });
    pick.addEventListener("change", () => {
      if (pick.checked) chosen.add(run.id);
      else chosen.delete(run.id);
      compare.disabled = chosen.size !== 2;
    });
    const indexed = run.indexed ?? {};
    return h(
      "tr",
      null,
      h("td", { class: "narrow" }, pick),
      h(
        "th",
        { scope: "row", class: "question" },
        h("a", { href: link(["runs", run.id]), "data-stop": true }, inline(run.id)),
        run.live && h("span", { class: "live" }, "Live"),
        ENDED.includes(run.state) && h("span", { class: "bad" }, run.state),
      ),
      h("td", null, run.stage ? inline(run.stage) : h("span", { class: "muted" }, "no training")),
      h(
        "td",
        { class: "number" },
        count(isNumber(run.step) ? run.step + 1 : run.step),
        run.steps_planned && run.stage === "rl" ? h("span", { class: "muted" }, ` / ${count(run.steps_planned)}`) : null,
      ),
      h(
        "td",
        { class: "number" },
        count(indexed.episodes),
        unread(indexed).map((text) => h("div", { class: "bad" }, text)),
        indexed.files < indexed.of ? h("div", { class: "muted" }, `${indexed.files} of ${indexed.of} files read`) : null,
      ),
      h("td", null, tags(run.labels)),
      h("td", { class: "clip" }, inline(run.tasks ?? "–")),
      h("td", null, ago(run.updated)),
    );
  }

  draw(await api.runs(signal));
  const timer = window.setInterval(() => !document.hidden && api.runs(signal).then(draw, () => {}), EVERY_MS);
  return {
    content: h("div", null, h("div", { class: "view-head" }, h("h1", null, "Runs"), compare), body),
    crumbs: [{ text: "Runs", href: link([]) }],
    close: () => window.clearInterval(timer),
  };
}
