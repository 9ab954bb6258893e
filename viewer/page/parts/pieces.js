/** Small parts that several views share: marks for right and wrong, tags, images, errors, paging. */

import { api } from "./api.js";
import { h } from "./dom.js";
import { count, NOTHING, plural } from "./format.js";
import { inline, shown } from "./text.js";

/** Right or wrong, as a word and a sign, not as a colour alone. @param {unknown} correct */
export function verdict(correct) {
  if (correct === true) return h("span", { class: "good" }, "✓ right");
  if (correct === false) return h("span", { class: "bad" }, "✗ wrong");
  return h("span", { class: "muted" }, "not judged");
}

/** @param {unknown} correct @param {number} calls */
export function dot(correct, calls) {
  const kind = correct === true ? "good" : correct === false ? "bad" : "muted";
  const word = correct === true ? "right" : correct === false ? "wrong" : "not judged";
  return h(
    "span",
    { class: `dot ${kind}`, title: `${word}, ${calls} calls` },
    correct === true ? "✓" : correct === false ? "✗" : "·",
    h("small", null, calls),
  );
}

/** @param {unknown[] | null | undefined} names */
export function tags(names) {
  if (!names?.length) return h("span", { class: "muted" }, NOTHING);
  return names.flatMap((name, index) => [index > 0 && " ", h("span", { class: "tag" }, inline(name))]);
}

/** Which tools the task needs. @param {string[] | null | undefined} needed */
export function need(needed) {
  if (!needed) return h("span", { class: "muted" }, "unknown");
  return needed.length ? tags(needed) : h("span", { class: "muted" }, "none");
}

/** @param {unknown} error */
export function failure(error) {
  return h("p", { class: "failure", role: "alert" }, shown(error instanceof Error ? error.message : String(error)));
}

/** What of a run's trajectory files is not shown, each in a few words. @param {any} indexed */
export function unread(indexed) {
  return [
    indexed?.unreadable && `${plural(indexed.unreadable, "line")} unreadable`,
    indexed?.left_out && `${plural(indexed.left_out, "file")} left out: hidden, or without a printable name`,
    indexed?.failure && `the index goes no further: ${indexed.failure}`,
  ].filter(Boolean);
}

/** What else the reader of a run's trajectory files has to say. @param {any} indexed */
export function readings(indexed) {
  return [
    indexed?.half && `${plural(indexed.half, "last line")} half-written`,
    indexed?.cut && `${plural(indexed.cut, "episode")} with texts of which the beginning is searched`,
    indexed?.temporary && `the index is not kept: ${indexed.temporary}`,
  ].filter(Boolean);
}

/** @param {string} text */
export function waiting(text = "Loading …") {
  return h("p", { class: "muted waiting", role: "status" }, text);
}

/**
 * An image of the run; a click enlarges it. What cannot be loaded is a box with its name.
 * @param {string} run @param {string} sha @param {string} label what it shows, for those who cannot see it
 */
export function picture(run, sha, label) {
  const image = h("img", { src: api.image(run, sha), alt: label, loading: "lazy", decoding: "async" });
  const button = h("button", { type: "button", class: "picture", title: "Enlarge" }, image);
  image.addEventListener("error", () => {
    button.replaceWith(
      h(
        "span",
        { class: "missing-picture", role: "img", "aria-label": `${label}: missing` },
        "image missing ",
        h("code", null, shown(sha.slice(0, 12))),
      ),
    );
  });
  button.addEventListener("click", () => enlarge(api.image(run, sha), label, sha));
  return button;
}

/** @param {string} source @param {string} label @param {string} sha */
function enlarge(source, label, sha) {
  const size = h("span");
  const image = h("img", { src: source, alt: label });
  image.addEventListener("load", () => {
    size.textContent = `${image.naturalWidth} × ${image.naturalHeight} pixels`;
    const fit = Math.min((0.86 * innerWidth) / image.naturalWidth, (0.74 * innerHeight) / image.naturalHeight);
    image.width = Math.round(image.naturalWidth * (fit >= 2 ? Math.min(8, Math.floor(fit)) : Math.min(1, fit)));
  });
  dialog(label, image, h("p", { class: "muted" }, size, " · ", h("code", null, shown(sha.slice(0, 16)))));
}

/** A dialog that Esc, its button or a click beside it closes. @param {string} title @param {...import("./dom.js").Child} content */
export function dialog(title, ...content) {
  const close = h("button", { type: "button", class: "quiet" }, "Close");
  const box = h("dialog", { "aria-label": title }, h("div", { class: "dialog-head" }, h("h2", null, title), close), content);
  close.addEventListener("click", () => box.close());
  box.addEventListener("click", (/** @type {Event} */ event) => event.target === box && box.close());
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

/**
 * @param {{total: number, offset: number, limit: number, shown: number}} page @param {(offset: number) => void} onpage
 */
export function paging({ total, offset, limit, shown: rows }, onpage) {
  /** @param {string} label @param {number} to @param {boolean} possible */
  const button = (label, to, possible) => h("button", { type: "button", disabled: !possible, onclick: () => onpage(to) }, label);
  return h(
    "div",
    { class: "paging" },
    h("span", { role: "status" }, total ? `${count(offset + 1)}–${count(offset + rows)} of ${count(total)}` : "none"),
    total > limit && [
      button("Previous", Math.max(0, offset - limit), offset > 0),
      button("Next", offset + limit, offset + limit < total),
    ],
  );
}

/** A table within a box that scrolls sideways by itself. @param {string} label @param {import("./dom.js").Child[]} head @param {import("./dom.js").Child[]} rows */
export function table(label, head, rows) {
  return h(
    "div",
    { class: "table-box", role: "group", tabindex: "0", "aria-label": label },
    h("table", null, h("caption", { class: "unseen" }, label), h("thead", null, h("tr", null, head)), h("tbody", null, rows)),
  );
}

/** @param {string} label @param {string} [className] */
export const th = (label, className) => h("th", { scope: "col", class: className }, label);

/**
 * Buttons of which one is chosen. They stay when another is, so that the focus stays as well.
 * @param {string} label @param {(value: string) => void} onpick
 * @returns {{element: HTMLElement, show: (options: [string, string][], chosen: string | undefined) => void}}
 */
export function choices(label, onpick) {
  const element = h("div", { class: "choices", role: "group", "aria-label": label });
  let made = "";
  return {
    element,
    show(options, chosen) {
      if (made !== JSON.stringify(options)) {
        made = JSON.stringify(options);
        element.replaceChildren(
          ...options.map(([value, text]) =>
            h("button", { type: "button", "data-value": value, onclick: () => onpick(value) }, inline(text)),
          ),
        );
      }
      for (const button of element.children)
        button.setAttribute("aria-pressed", String(button.getAttribute("data-value") === chosen));
    },
  };
}
