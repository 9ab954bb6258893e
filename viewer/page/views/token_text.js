/** The tokens of a chain as text. Stretches out of sight hold no elements, so that a long transcript stays quick. */

import { h, replace } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { shown } from "../parts/text.js";

const STRETCH = 400;
const REPEATED = 4;

/**
 * @typedef {import("../parts/colours.js").Chain} Chain
 * @typedef {import("../parts/colours.js").Colouring} Colouring
 * @typedef {{start: number, end: number, label: string | null, box: HTMLElement, filled: boolean}} Stretch
 */

/** Where the prompt, what was sampled, and what came back begin and end. @param {Chain} chain @returns {{start: number, end: number, label: string}[]} */
function segments({ mask, prompt_length: prompt, pieces }) {
  const found = [];
  let turn = 0;
  for (let start = 0; start < pieces.length;) {
    let end = start + 1;
    while (end < pieces.length && mask[end] === mask[start] && end !== prompt) end++;
    if (mask[start]) turn++;
    found.push({
      start,
      end,
      label: mask[start] ? `Turn ${turn}: sampled` : start < prompt ? "Prompt" : `Turn ${turn}: came back`,
    });
    start = end;
  }
  return found;
}

/**
 * How often the piece is repeated from here. The placeholders of an image are one token many times over: they are shown once.
 * @param {Chain} chain @param {number} at @param {number} end
 */
function repeated({ pieces, mask }, at, end) {
  let next = at + 1;
  while (next < end && pieces[next] === pieces[at] && !mask[at] && !mask[next]) next++;
  return next - at >= REPEATED ? next - at : 1;
}

/** @param {string} piece */
function pieceText(piece) {
  if (piece === "") return document.createTextNode("◌");
  const fragment = document.createDocumentFragment();
  // A token that holds a line break shows it as a sign as well, else its place could not be pointed at.
  piece.split(/(\n)/).forEach((part) => fragment.append(part === "\n" ? h("span", { class: "newline" }, "↵\n") : shown(part)));
  return fragment;
}

/**
 * @param {Chain} chain @param {(text: string) => void} say shows a token's figures
 */
export function tokenText(chain, say) {
  /** @type {Colouring | null} */
  let colours = null;
  let cursor = -1;
  let last = -1;
  /** @type {Stretch[]} */
  const stretches = [];
  const element = h("div", {
    class: "token-text",
    tabindex: "0",
    role: "group",
    "aria-label": "Tokens; the arrow keys move through them",
  });
  for (const { start, end, label } of segments(chain)) {
    const section = h("div", { class: "segment" }, h("div", { class: "segment-label" }, `${label} · ${count(end - start)}`));
    for (let from = start; from < end; from += STRETCH) {
      const box = h("div", { class: "stretch" });
      stretches.push({ start: from, end: Math.min(end, from + STRETCH), label, box, filled: false });
      section.append(box);
    }
    element.append(section);
  }

  /** @param {number} index */
  const className = (index) =>
    `token ${colours ? colours.className(index) : chain.mask[index] ? "unknown" : "context"}${index === cursor ? " at" : ""}`;

  /** @param {Stretch} stretch */
  function filled(stretch) {
    if (stretch.filled) return;
    stretch.filled = true;
    stretch.box.style.removeProperty("height");
    const spans = [];
    for (let at = stretch.start; at < stretch.end;) {
      const times = repeated(chain, at, stretch.end);
      spans.push(
        h(
          "span",
          { class: className(at), "data-t": at },
          pieceText(chain.pieces[at]),
          times > 1 && h("small", null, ` × ${count(times)} `),
        ),
      );
      at += times;
    }
    replace(stretch.box, spans);
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const stretch = stretches.find((one) => one.box === entry.target);
        if (!stretch) continue;
        if (entry.isIntersecting) filled(stretch);
        else if (stretch.filled && entry.boundingClientRect.height) {
          stretch.box.style.height = `${entry.boundingClientRect.height}px`;
          stretch.box.replaceChildren();
          stretch.filled = false;
        }
      }
    },
    { rootMargin: "1200px 0px" },
  );
  for (const stretch of stretches) {
    const characters = chain.pieces.slice(stretch.start, stretch.end).reduce((sum, piece) => sum + piece.length, 0);
    stretch.box.style.height = `${Math.ceil(characters / 90) * 26}px`;
    watcher.observe(stretch.box);
  }

  /** @param {number} index */
  function told(index) {
    last = index;
    const figures = colours ? `, ${colours.say(index)}` : "";
    const id = chain.token_ids ? `, id ${chain.token_ids[index]}` : "";
    say(`Token ${count(index)}: ${JSON.stringify(chain.pieces[index])}${id}${figures}`);
  }

  /** @param {number} index */
  function moveTo(index) {
    const before = element.querySelector(".at");
    before?.classList.remove("at");
    cursor = Math.max(0, Math.min(chain.pieces.length - 1, index));
    const stretch = stretches.find((one) => one.start <= cursor && cursor < one.end);
    if (stretch) filled(stretch);
    const span = element.querySelector(`[data-t="${cursor}"]`);
    span?.classList.add("at");
    span?.scrollIntoView({ block: "nearest" });
    told(cursor);
  }

  let pointer = "";
  element.addEventListener("pointermove", (/** @type {any} */ event) => {
    // While the text scrolls under a pointer that rests, what was asked for by key stays.
    const now = `${event.clientX} ${event.clientY}`;
    if (now === pointer) return;
    pointer = now;
    const index = event.target.closest?.("[data-t]")?.dataset.t;
    if (index !== undefined) told(Number(index));
  });
  element.addEventListener("click", (/** @type {any} */ event) => {
    const index = event.target.closest?.("[data-t]")?.dataset.t;
    if (index !== undefined) moveTo(Number(index));
  });
  element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const to = {
      ArrowRight: cursor + 1,
      ArrowLeft: cursor - 1,
      ArrowDown: cursor + 10,
      ArrowUp: cursor - 10,
      Home: 0,
      End: chain.pieces.length - 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    moveTo(to);
  });

  return {
    element,
    chain,
    /** @param {Colouring | string} next */
    colour(next) {
      colours = typeof next === "string" ? null : next;
      for (const span of element.querySelectorAll("[data-t]")) span.className = className(Number(span.getAttribute("data-t")));
      if (last >= 0) told(last);
    },
    close: () => watcher.disconnect(),
  };
}
