/** The page: finds the view of an address, shows it, and keeps the path above it. */

import { api } from "./parts/api.js";
import { append, h, replace } from "./parts/dom.js";
import { listen, showKeys } from "./parts/keys.js";
import { failure, waiting } from "./parts/pieces.js";
import { current, go, link, parse } from "./parts/route.js";
import { inline } from "./parts/text.js";
import { compareView } from "./views/compare.js";
import { groupView } from "./views/group.js";
import { itemView } from "./views/item.js";
import { runView } from "./views/run.js";
import { runsView } from "./views/runs.js";
import { tasksView } from "./views/tasks.js";
import { tokensView } from "./views/tokens.js";

/**
 * @typedef {import("./parts/route.js").Route} Route
 * @typedef {{text: string, href: string}} Crumb
 * @typedef {{content: Node, crumbs: Crumb[], update?: (route: Route) => Promise<void> | void, close?: () => void, keys?: Record<string, () => void>}} View
 *   `crumbs` end with the view itself; `update` takes another query of the same path
 * @typedef {(route: Route, signal: AbortSignal) => Promise<View>} MakeView
 */

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const crumbs = /** @type {HTMLElement} */ (document.getElementById("crumbs"));

/** @type {View | null} */
let view = null;
let shownPath = "";
const AGAIN_MS = 700;
/** The last address of each path: a way back leads to what one saw there, filters included. @type {Map<string, string>} */
const seen = new Map();

/** @param {Route} route */
const place = ({ path, query }) => JSON.stringify([path, query.name ?? ""]);
let turn = new AbortController();

/** @param {Route} route @returns {MakeView | null} */
function viewOf({ path }) {
  if (path.length === 0) return runsView;
  if (path[0] === "compare") return compareView;
  if (path[0] !== "runs") return null;
  if (path.length === 2) return runView;
  if (path.length === 3 && path[2] === "tasks") return tasksView;
  if (path.length === 4) return { group: groupView, tokens: tokensView, item: itemView }[path[2]] ?? null;
  return null;
}

/**
 * What cannot be found may stand in a file that is not read yet: then the text says so.
 * @param {Route} route @returns {Promise<string | null>}
 */
async function stillReading({ path }) {
  const runs = await api.runs().catch(() => []);
  const { files = 0, of = 0 } = runs.find((/** @type {any} */ one) => one.id === path[1])?.indexed ?? {};
  return files < of ? `Reading the run's files: ${files} of ${of} …` : null;
}

async function show() {
  const route = current();
  const path = JSON.stringify(route.path);
  const before = shownPath;
  seen.set(place(route), location.hash);
  if (path === shownPath && view?.update) {
    await view.update(route);
    return;
  }
  turn.abort();
  turn = new AbortController();
  const { signal } = turn;
  view?.close?.();
  view = null;
  shownPath = path;
  main.setAttribute("aria-busy", "true");
  const slow = window.setTimeout(() => replace(main, waiting()), 150);
  try {
    const make = viewOf(route);
    if (!make) throw new Error("There is no such view.");
    const made = await make(route, signal);
    if (signal.aborted) {
      made.close?.();
      return;
    }
    view = made;
    replace(main, view.content);
    showCrumbs(view.crumbs);
  } catch (error) {
    if (signal.aborted) return;
    shownPath = "";
    const reading = await stillReading(route);
    if (signal.aborted) return;
    if (reading) {
      replace(main, waiting(reading));
      window.setTimeout(() => !signal.aborted && show(), AGAIN_MS);
      return;
    }
    replace(main, h("h1", null, "Not found"), failure(error));
    showCrumbs([{ text: "Runs", href: link([]) }]);
  } finally {
    window.clearTimeout(slow);
  }
  main.removeAttribute("aria-busy");
  window.scrollTo(0, 0);
  const opened = /** @type {HTMLElement[]} */ ([...main.querySelectorAll("a[data-stop]")]).find(
    (stop) => JSON.stringify(parse(stop.getAttribute("href") ?? "").path) === before,
  );
  const heading = main.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  // Whoever comes back stands at the row that led away.
  if (opened) opened.focus();
  else heading?.focus({ preventScroll: true });
}

/** @param {string} href */
const back = (href) => seen.get(place(parse(href))) ?? href;

/** @param {Crumb[]} path */
function showCrumbs(path) {
  replace(crumbs);
  path.forEach(({ text, href }, index) => {
    const last = index === path.length - 1;
    append(crumbs, [h("li", null, h("a", { href: last ? href : back(href), "aria-current": last ? "page" : null }, inline(text)))]);
  });
  document.title = [
    ...path
      .slice(1)
      .map((one) => one.text)
      .toReversed(),
    "Toolwise",
  ].join(" · ");
}

const THEMES = ["auto", "light", "dark"];

/** @param {string} theme */
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = /** @type {HTMLElement} */ (document.getElementById("theme"));
  button.textContent = { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" }[theme] ?? "";
  try {
    localStorage.setItem("toolwise-theme", theme);
  } catch {
    // A browser that keeps nothing still shows the page.
  }
}

function start() {
  let theme = null;
  try {
    theme = localStorage.getItem("toolwise-theme");
  } catch {
    // As above.
  }
  setTheme(theme && THEMES.includes(theme) ? theme : "auto");
  document.getElementById("theme")?.addEventListener("click", () => {
    const now = THEMES.indexOf(document.documentElement.dataset.theme ?? "auto");
    setTheme(THEMES[(now + 1) % THEMES.length]);
  });
  document.getElementById("help")?.addEventListener("click", showKeys);
  document.getElementById("skip")?.addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  listen({
    view: () => view,
    up: () => {
      const above = view?.crumbs.at(-2);
      if (above) go(back(above.href));
    },
  });
  window.addEventListener("hashchange", show);
  show();
}

start();
