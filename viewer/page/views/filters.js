/** The filters above a table of tasks or episodes. Each change goes into the address, which brings it back. */

import { h, replace } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { setQuery } from "../parts/route.js";

export const FILTERS = [
  "group",
  "task",
  "ability",
  "tool",
  "status",
  "need",
  "used",
  "stop",
  "correct",
  "effect",
  "reward_min",
  "reward_max",
  "q",
];
const TYPING_MS = 250;

/** @type {[string, string][]} */
const SORTS = [
  ["", "in order of play"],
  ["-reward", "highest reward"],
  ["reward", "lowest reward"],
  ["-calls", "most calls"],
  ["calls", "fewest calls"],
  ["-tokens", "most tokens"],
  ["tokens", "fewest tokens"],
];

/** The form; `fill` takes the facets of a step, `show` the query. */
export function filterForm() {
  /** @type {Record<string, any>} */
  const inputs = {};
  let typed = 0;
  /** @param {string} name @param {string} label @param {[string, string][]} [options] */
  const select = (name, label, options = []) => {
    inputs[name] = h(
      "select",
      { onchange: () => setQuery({ [name]: inputs[name].value, offset: null }) },
      h("option", { value: "" }, "any"),
      options.map(([value, text]) => h("option", { value }, text)),
    );
    return h("label", { class: "field" }, h("span", null, label), inputs[name]);
  };
  /** @param {string} name @param {import("../parts/dom.js").Props} props */
  const input = (name, props) => {
    inputs[name] = h("input", {
      ...props,
      oninput: () => {
        window.clearTimeout(typed);
        typed = window.setTimeout(() => setQuery({ [name]: inputs[name].value, offset: null }), TYPING_MS);
      },
    });
    return inputs[name];
  };
  const fields = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filters", onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
    h(
      "label",
      { class: "field wide" },
      h("span", null, "Text"),
      input("q", { type: "search", "data-search": true, placeholder: "in questions, actions, outputs, answers" }),
    ),
    select("ability", "Ability"),
    select("need", "Needs a tool", [
      ["needed", "yes"],
      ["not_needed", "no"],
      ["unknown", "unknown"],
    ]),
    select("used", "Called one", [
      ["yes", "yes"],
      ["no", "no"],
    ]),
    select("tool", "Tool"),
    select("status", "Status of a call"),
    select("correct", "Answer", [
      ["yes", "right"],
      ["no", "wrong"],
    ]),
    select("stop", "End"),
    select("effect", "Effect of what was taken away"),
    h(
      "div",
      { class: "field", role: "group", "aria-label": "Reward" },
      h("span", null, "Reward"),
      h(
        "span",
        { class: "range-pair" },
        input("reward_min", { type: "number", step: "any", placeholder: "from", "aria-label": "Reward from" }),
        input("reward_max", { type: "number", step: "any", placeholder: "to", "aria-label": "Reward to" }),
      ),
    ),
    select("sort", "Order", SORTS.slice(1)),
    select("rows", "Rows", [["episodes", "episodes"]]),
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => setQuery(Object.fromEntries([...FILTERS, "sort", "offset"].map((name) => [name, null]))),
      },
      "Clear filters",
    ),
  );
  // On a narrow window the filters are folded away unless one is set.
  const element = h(
    "details",
    { class: "filter-box", open: matchMedia("(width > 640px)").matches },
    h("summary", null, "Filters"),
    fields,
  );
  inputs.sort.options[0].textContent = SORTS[0][1];
  inputs.rows.options[0].textContent = "tasks";

  const form = {
    element,
    filled: false,
    /** @param {Record<string, Record<string, number>>} facets */
    fill(facets) {
      form.filled = true;
      const effects = Object.entries(/** @type {Record<string, any>} */ (facets.effects ?? {}));
      inputs.effect.parentElement.hidden = !effects.length;
      replace(
        inputs.effect,
        h("option", { value: "" }, "any"),
        effects.map(([name, counts]) =>
          h(
            "optgroup",
            { label: name },
            Object.entries(counts).map(([effect, number]) =>
              h("option", { value: `${name}:${effect}` }, `${name}: ${effect} (${count(number)})`),
            ),
          ),
        ),
      );
      for (const [name, counts] of Object.entries({
        ability: facets.abilities,
        tool: facets.tools,
        status: facets.statuses,
        stop: facets.stops,
      })) {
        replace(
          inputs[name],
          h("option", { value: "" }, "any"),
          Object.entries(counts ?? {}).map(([value, number]) => h("option", { value }, `${value} (${count(number)})`)),
        );
      }
    },
    /** @param {Record<string, string>} query */
    show(query) {
      for (const [name, field] of Object.entries(inputs)) {
        const value = query[name] ?? "";
        if (field === document.activeElement && field.tagName === "INPUT") continue;
        if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value))
          field.append(h("option", { value }, value));
        if (field.value !== value) field.value = value;
        field.classList.toggle("set", Boolean(value));
        if (value && name !== "rows") element.open = true;
      }
    },
  };
  return form;
}
