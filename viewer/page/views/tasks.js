/** The tasks, or the episodes, of a step: filtered, sorted, in pages. */

import { api } from "../parts/api.js";
import { h, replace } from "../parts/dom.js";
import { count, fixed, percent } from "../parts/format.js";
import { follow } from "../parts/live.js";
import { failure, need, paging, table, tags, th, verdict } from "../parts/pieces.js";
import { current, go, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { filterForm, FILTERS } from "./filters.js";

const LIMIT = 50;
/** @type {import("../app.js").MakeView} */
export async function tasksView(route, signal) {
  const run = route.path[1];
  let { names } = await api.names(run, signal);
  const results = h("div", { class: "results", "aria-live": "off" });
  const form = filterForm();
  const nameSelect = h("select", {
    "aria-label": "Step or other name",
    onchange: () => setQuery({ name: nameSelect.value, offset: null }, { push: true }),
  });
  const title = h("h1", null);
  const step = (/** @type {number} */ by) => () => {
    const next = names[names.findIndex((/** @type {any} */ one) => one.name === nameSelect.value) + by];
    if (next) setQuery({ name: next.name, offset: null }, { push: true });
  };
  let asked = new AbortController();
  let facetsOf = "";
  /** Names of which more episodes will come. */
  const incomplete = () =>
    new Set(
      names.filter((/** @type {any} */ one) => one.unfinished || one.indexed === false).map((/** @type {any} */ one) => one.name),
    );
  let growing = incomplete();

  let drawn = "";
  function drawNames() {
    const listed = names.map((/** @type {any} */ one) => one.name).join("\n");
    if (listed === drawn) return;
    drawn = listed;
    const { name = "" } = current().query;
    replace(
      nameSelect,
      h("option", { value: "" }, "all names"),
      names.map((/** @type {any} */ one) => h("option", { value: one.name }, one.name)),
    );
    if (name && !names.some((/** @type {any} */ one) => one.name === name)) nameSelect.append(h("option", { value: name }, name));
    nameSelect.value = name;
  }

  /** @param {import("../app.js").Route} next @param {boolean} [grown] the same again, with what has come since */
  async function update({ query }, grown = false) {
    asked.abort();
    asked = new AbortController();
    const own = asked.signal;
    const what = query.rows === "episodes" ? "episodes" : "tasks";
    const name = query.name ?? "";
    nameSelect.value = name;
    replace(title, inline(name || "All names"));
    const filters = Object.fromEntries(FILTERS.filter((one) => query[one]).map((one) => [one, query[one]]));
    const offset = Math.max(0, Number(query.offset) || 0);
    form.show(query);
    results.setAttribute("aria-busy", "true");
    try {
      const [facets, page] = await Promise.all([
        facetsOf === name && form.filled && !grown ? null : api.facets(run, name, own),
        api.rows(run, what, { name, ...filters, sort: query.sort, offset, limit: LIMIT }, own),
      ]);
      if (facets) {
        form.fill(facets);
        form.show(query);
        facetsOf = name;
      }
      replace(
        results,
        h(
          "div",
          { class: "toolbar" },
          paging({ total: page.total, offset, limit: LIMIT, shown: page.rows.length }, (to) =>
            setQuery({ offset: to || null }, { push: true }),
          ),
        ),
        page.rows.length
          ? what === "tasks"
            ? taskTable(run, name, page.rows, query)
            : episodeTable(run, page.rows, query)
          : h("p", null, "Nothing matches these filters."),
      );
    } catch (error) {
      if (own.aborted) return;
      replace(results, failure(error));
    }
    results.removeAttribute("aria-busy");
  }

  drawNames();
  await update(route);
  const about = (await api.runs(signal)).find((/** @type {any} */ one) => one.id === run);
  const stop = follow(run, about, async (changed) => {
    if (!changed.includes("names") && !changed.includes("index")) return;
    ({ names } = await api.names(run, signal));
    drawNames();
    const chosen = names.find((/** @type {any} */ one) => one.name === nameSelect.value);
    if (!chosen || growing.has(chosen.name)) await update(current(), true);
    growing = incomplete();
  });
  return {
    content: h(
      "div",
      null,
      h(
        "div",
        { class: "view-head" },
        title,
        h(
          "div",
          { class: "toolbar" },
          h("button", { type: "button", onclick: step(-1), "aria-label": "Previous name" }, "←"),
          nameSelect,
          h("button", { type: "button", onclick: step(1), "aria-label": "Next name" }, "→"),
        ),
      ),
      form.element,
      results,
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: run, href: link(["runs", run]) },
      { text: "Tasks", href: link(["runs", run, "tasks"], route.query) },
    ],
    update,
    close: () => {
      asked.abort();
      stop();
    },
  };
}

/** A heading that sorts by the column. @param {string} label @param {string} by @param {Record<string, string>} query */
function sortable(label, by, query) {
  const now = query.sort === by ? "ascending" : query.sort === `-${by}` ? "descending" : null;
  const next = now === "descending" ? by : now === "ascending" ? null : `-${by}`;
  return h(
    "th",
    { scope: "col", class: "number", "aria-sort": now },
    h(
      "button",
      { type: "button", class: "sort", onclick: () => setQuery({ sort: next, offset: null }) },
      label,
      h("span", { "aria-hidden": "true" }, now === "descending" ? " ↓" : now ? " ↑" : ""),
    ),
  );
}

/** @param {string} target @param {import("../parts/dom.js").Child[]} cells */
function row(target, cells) {
  return h(
    "tr",
    {
      class: "opens",
      onclick: (/** @type {any} */ event) => !event.target.closest("a, button, input") && !String(getSelection()) && go(target),
    },
    cells,
  );
}

/** @param {string} run @param {string} name @param {any[]} rows @param {Record<string, string>} query */
function taskTable(run, name, rows, query) {
  return table(
    "Tasks",
    [
      th("Task"),
      th("Ability"),
      th("Needs"),
      th("Right", "number"),
      sortable("Reward", "reward", query),
      sortable("Calls", "calls", query),
    ],
    rows.map((one) => {
      const target = link(["runs", run, "group", one.group_id], { name: one.name ?? name });
      return row(target, [
        h(
          "th",
          { scope: "row", class: "question" },
          h("a", { href: target, "data-stop": true }, inline(one.question || one.task_id)),
          h("small", null, inline(one.task_id)),
        ),
        h("td", null, tags(one.abilities)),
        h("td", null, need(one.needed_tools)),
        h("td", { class: "number" }, percent(one.accuracy, 0), h("span", { class: "muted" }, ` of ${count(one.episodes)}`)),
        h("td", { class: "number" }, fixed(one.reward?.mean), h("span", { class: "muted" }, ` ± ${fixed(one.reward?.std)}`)),
        h(
          "td",
          { class: "number" },
          fixed(one.calls?.mean),
          h("span", { class: "muted" }, ` ± ${fixed(Math.sqrt(one.calls?.var))}`),
        ),
      ]);
    }),
  );
}

/** @param {string} run @param {any[]} rows @param {Record<string, string>} query */
function episodeTable(run, rows, query) {
  return table(
    "Episodes",
    [
      th("Episode"),
      th("Answer"),
      th("Judged"),
      sortable("Reward", "reward", query),
      sortable("Calls", "calls", query),
      th("Tools"),
      sortable("Tokens", "tokens", query),
      th("End"),
    ],
    rows.map((one) => {
      const target = link(["runs", run, "group", one.group_id], { name: one.name, episode: one.episode_id });
      return row(target, [
        h(
          "th",
          { scope: "row" },
          h(
            "a",
            { href: target, "data-stop": true, "data-tokens": link(["runs", run, "tokens", one.episode_id], { name: one.name }) },
            inline(one.episode_id),
          ),
          h("small", null, inline(one.task_id)),
        ),
        h(
          "td",
          { class: "clip" },
          one.answer === null ? h("span", { class: "muted" }, "none") : inline(String(one.answer).slice(0, 120)),
        ),
        h("td", null, verdict(one.correct)),
        h("td", { class: "number" }, fixed(one.reward)),
        h("td", { class: "number" }, count(one.calls)),
        h("td", null, tags([...new Set(one.tools ?? [])])),
        h("td", { class: "number" }, count(one.sampled_tokens), h("span", { class: "muted" }, ` / ${count(one.tokens)}`)),
        h(
          "td",
          null,
          inline(
            String(one.stop_reason ?? "–")
              .toLowerCase()
              .replaceAll("_", " "),
          ),
        ),
      ]);
    }),
  );
}
