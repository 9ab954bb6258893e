/** Text of a policy or a tool, shown as it is: what a terminal or a browser would act on becomes a visible mark. */

import { h } from "./dom.js";

// Control characters but tab and newline; soft hyphen, zero-width and bidirectional marks, line separators, tags, byte-order mark.
// A terminal's sequences (ESC [ … m, ESC ] … BEL) are one mark.
const HIDDEN = new RegExp(
  "\\u001b\\[[0-?]*[ -/]*[@-~]|\\u001b\\][^\\u0007\\u001b]{0,200}(?:\\u0007|\\u001b\\\\)|" +
    "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u115f\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\ufff9-\\ufffb]|" +
    "[\\u{e0000}-\\u{e007f}]|[\\ud800-\\udfff]",
  "gu",
);

const NAMES = new Map([
  [0x1b, "escape"],
  [0x200b, "zero-width space"],
  [0x200c, "zero-width non-joiner"],
  [0x200d, "zero-width joiner"],
  [0x200e, "left-to-right mark"],
  [0x200f, "right-to-left mark"],
  [0x202a, "left-to-right embedding"],
  [0x202b, "right-to-left embedding"],
  [0x202c, "end of a directional run"],
  [0x202d, "left-to-right override"],
  [0x202e, "right-to-left override"],
  [0x2066, "left-to-right isolate"],
  [0x2067, "right-to-left isolate"],
  [0x2068, "first-strong isolate"],
  [0x2069, "end of an isolate"],
  [0xfeff, "byte-order mark"],
  [0xad, "soft hyphen"],
]);

/** @param {string} found @returns {{label: string, meaning: string}} */
function mark(found) {
  const point = /** @type {number} */ (found.codePointAt(0));
  const hex = `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
  if (point === 0x1b && found.length > 1) return { label: `ESC${found.slice(1)}`, meaning: "a terminal's control sequence" };
  if (point === 0x1b) return { label: "ESC", meaning: "escape" };
  return { label: hex, meaning: `${NAMES.get(point) ?? "invisible character"} ${hex}` };
}

/**
 * The text with its invisible characters as marks.
 * @param {string} text
 * @returns {DocumentFragment}
 */
export function shown(text) {
  const fragment = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > end) fragment.append(text.slice(end, match.index));
    const { label, meaning } = mark(match[0]);
    fragment.append(h("span", { class: "hidden-mark", title: meaning }, label));
    end = match.index + match[0].length;
  }
  if (end < text.length) fragment.append(text.slice(end));
  return fragment;
}

/** One line of foreign text, isolated from the text around it. @param {unknown} text @param {string} [className] */
export function inline(text, className) {
  return h("bdi", className ? { class: className } : null, shown(String(text ?? "")));
}

const FIRST = 4000;
const FIRST_LINES = 40;
const STEP = 100_000;

/** The longest beginning of at most FIRST characters and FIRST_LINES lines. @param {string} text */
function beginning(text) {
  let end = Math.min(text.length, FIRST);
  for (let at = -1, lines = 0; lines < FIRST_LINES; lines++) {
    at = text.indexOf("\n", at + 1);
    if (at < 0 || at >= end) return end;
    if (lines === FIRST_LINES - 1) end = at;
  }
  return end;
}

/**
 * A block of foreign text. A long one is cut, with a button for more; `whole` fetches what the server left out.
 * @param {string} text
 * @param {{render?: (text: string) => Node, whole?: (() => Promise<string>) | null, className?: string, label?: string}} [options]
 */
export function block(text, { render = shown, whole = null, className = "", label = "text" } = {}) {
  const pre = h("pre", { class: `foreign ${className}` });
  const box = h("div", { class: "block" }, pre);
  let all = text;
  let end = beginning(all);
  pre.append(render(all.slice(0, end)));
  if (end === all.length && !whole) return box;
  const more = h("button", { type: "button", class: "more" });
  const describe = () => {
    const rest = all.length - end;
    more.textContent = whole
      ? `Show all of this ${label} (cut at ${all.length.toLocaleString("en")} characters)`
      : rest <= STEP
        ? `Show all (${rest.toLocaleString("en")} more characters)`
        : `Show ${STEP.toLocaleString("en")} of ${rest.toLocaleString("en")} more characters`;
  };
  more.addEventListener("click", async () => {
    if (whole) {
      more.disabled = true;
      try {
        all = await whole();
        whole = null;
      } catch (error) {
        more.textContent = `Could not load it: ${error instanceof Error ? error.message : error}`;
        return;
      } finally {
        more.disabled = false;
      }
    }
    const next = Math.min(all.length, end + STEP);
    pre.append(shown(all.slice(end, next)));
    end = next;
    if (end === all.length) more.remove();
    else describe();
  });
  describe();
  box.append(more);
  return box;
}
