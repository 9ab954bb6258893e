/** Keys: j and k between rows or episodes, Esc back, / search, t tokens, ? help. */

import { h } from "./dom.js";
import { dialog } from "./pieces.js";

/** @type {[string, string][]} */
const KEYS = [
  ["j, ↓", "next row or episode"],
  ["k, ↑", "previous row or episode"],
  ["Enter", "open it"],
  ["Esc", "close what is open; else one level up"],
  ["/", "search"],
  ["t", "tokens of the episode"],
  ["g", "group of the episode, from its tokens"],
  ["← →", "step of a curve, or token, that has the focus"],
  ["?", "this list"],
];

export function showKeys() {
  dialog(
    "Keys",
    h(
      "table",
      { class: "keys" },
      h(
        "tbody",
        null,
        KEYS.map(([key, what]) => h("tr", null, h("th", { scope: "row" }, h("kbd", null, key)), h("td", null, what))),
      ),
    ),
  );
}

/** @param {Element | null} element */
function typing(element) {
  return (
    element instanceof HTMLElement && element.matches("input:not([type=checkbox], [type=range], [type=radio]), select, textarea")
  );
}

/** Moves the focus along the elements marked `data-stop`. @param {number} by */
function move(by) {
  const stops = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main [data-stop]")]);
  if (!stops.length) return;
  const now = stops.findIndex((stop) => stop.contains(document.activeElement));
  const next = stops[Math.min(stops.length - 1, Math.max(0, now < 0 ? (by > 0 ? 0 : stops.length - 1) : now + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/**
 * @param {{up: () => void, view: () => ({keys?: Record<string, () => void>} | null)}} page what a key reaches
 */
export function listen(page) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const active = document.activeElement;
    if (typing(active)) {
      if (event.key === "Escape") /** @type {HTMLElement} */ (active).blur();
      return;
    }
    const onStop =
      Boolean(active?.closest("[data-stop]")) || active === document.body || active?.id === "main" || active?.tagName === "H1";
    const own = page.view()?.keys?.[event.key];
    if (own) own();
    else if (event.key === "j" || (event.key === "ArrowDown" && onStop)) move(1);
    else if (event.key === "k" || (event.key === "ArrowUp" && onStop)) move(-1);
    else if (event.key === "Escape") page.up();
    else if (event.key === "?") showKeys();
    else if (event.key === "/") {
      const search = /** @type {HTMLInputElement | null} */ (document.querySelector("main [data-search]"));
      if (!search) return;
      search.closest("details")?.setAttribute("open", "");
      search.focus();
      search.select();
    } else return;
    event.preventDefault();
  });
}
