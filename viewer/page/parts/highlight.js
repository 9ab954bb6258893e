/** Colours for an action: its tags, Python in code blocks, JSON in tool calls. Anything else stays plain text. */

import { h } from "./dom.js";
import { shown } from "./text.js";

const KEYWORDS =
  "False|None|True|and|as|assert|async|await|break|case|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|" +
  "match|nonlocal|not|or|pass|raise|return|try|while|with|yield";

/** Alternatives in order; the name of the group that matched is the class. */
const PYTHON = new RegExp(
  [
    "(?<comment>#[^\\n]*)",
    "(?<string>[rRbBfFuU]{0,2}(?:'''[\\s\\S]*?(?:'''|$)|\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'(?:\\\\.|[^'\\\\\\n])*'?|\"(?:\\\\.|[^\"\\\\\\n])*\"?))",
    "(?<number>\\b(?:0[xXoObB][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d*)?(?:[eE][+-]?\\d+)?j?)\\b)",
    `(?<keyword>\\b(?:${KEYWORDS})\\b)`,
    "(?<call>\\b[A-Za-z_]\\w*(?=\\())",
  ].join("|"),
  "g",
);
const JSON_PARTS =
  /(?<key>"(?:\\.|[^"\\\n])*"(?=\s*:))|(?<string>"(?:\\.|[^"\\\n])*"?)|(?<number>-?\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b)|(?<keyword>\b(?:true|false|null)\b)/g;
const BLOCKS =
  /(?<fence>```[\w-]*\n)(?<fenced>[\s\S]*?)(?<end>```|$)|(?<open><tool_call>)(?<json>[\s\S]*?)(?<close><\/tool_call>|$)|(?<tag><\/?[A-Za-z_][\w-]*>)/g;

/** @param {string} text @param {RegExp} grammar @param {DocumentFragment} into */
function coloured(text, grammar, into) {
  let end = 0;
  for (const match of text.matchAll(grammar)) {
    const kind = Object.entries(match.groups ?? {}).find(([, value]) => value !== undefined)?.[0];
    if (!match[0] || !kind) continue;
    into.append(shown(text.slice(end, match.index)), h("span", { class: `code-${kind}` }, shown(match[0])));
    end = match.index + match[0].length;
  }
  into.append(shown(text.slice(end)));
}

/** @param {string} action @returns {DocumentFragment} */
export function highlighted(action) {
  const into = document.createDocumentFragment();
  /** @param {string | undefined} text */
  const tag = (text) => text && into.append(h("span", { class: "code-tag" }, shown(text)));
  let end = 0;
  for (const match of action.matchAll(BLOCKS)) {
    const found = /** @type {Record<string, string | undefined>} */ (match.groups);
    into.append(shown(action.slice(end, match.index)));
    end = match.index + match[0].length;
    if (found.fence) {
      tag(found.fence);
      coloured(found.fenced ?? "", /json/.test(found.fence) ? JSON_PARTS : PYTHON, into);
      tag(found.end);
    } else if (found.open) {
      tag(found.open);
      coloured(found.json ?? "", JSON_PARTS, into);
      tag(found.close);
    } else {
      tag(found.tag);
    }
  }
  into.append(shown(action.slice(end)));
  return into;
}
