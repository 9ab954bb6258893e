/** One episode token by token, coloured by a figure. */

import { api } from "../parts/api.js";
import { colouring, KINDS } from "../parts/colours.js";
import { h, joined, replace } from "../parts/dom.js";
import { count, fixed, plural, signed } from "../parts/format.js";
import { choices, verdict } from "../parts/pieces.js";
import { go, link, setQuery } from "../parts/route.js";
import { inline } from "../parts/text.js";
import { tokenText } from "./token_text.js";

/** @type {import("../app.js").MakeView} */
export async function tokensView(route, signal) {
  const [, run, , id] = route.path;
  const { name = "" } = route.query;
  const episode = await api.episode(run, id, { name, tokens: 1 }, signal);
  const groupLink = link(["runs", run, "group", episode.group_id], { name, episode: id });
  const group = episode.group_id ? await api.group(run, episode.group_id, name, signal).catch(() => null) : null;
  const siblings = (group?.episodes ?? []).map((/** @type {any} */ one) => one.episode_id);
  const choice = choices("Colour by", (kind) => setQuery({ colour: kind === "mask" ? null : kind }));
  const legend = h("div", { class: "token-legend" });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const chains = h("div");
  const known = typeof episode.advantage === "number";
  /** What was not recorded token by token holds for the episode as a whole. @type {import("../parts/colours.js").Chain[]} */
  const recorded = (episode.tokens ?? []).map((/** @type {any} */ one) => ({
    ...one,
    advantages:
      one.advantages ?? (known ? one.mask.map((/** @type {number} */ sampled) => (sampled ? episode.advantage : null)) : null),
  }));
  const texts = recorded.map((/** @type {any} */ chain) => tokenText(chain, (text) => replace(readout, text)));

  /** @param {Record<string, string>} query */
  function colour(query) {
    const kind = KINDS.some(([one]) => one === query.colour) ? query.colour : "mask";
    choice.show(KINDS, kind);
    const made = texts.map((/** @type {any} */ text) => colouring(kind, text.chain));
    const usable = /** @type {any} */ (made.find((one) => typeof one !== "string"));
    replace(
      legend,
      usable
        ? usable.legend.map((/** @type {any} */ one) =>
            h("span", null, h("span", { class: `token ${one.className}` }, "\u00a0\u00a0"), " ", one.label),
          )
        : h("span", { class: "muted" }, made[0] ?? ""),
    );
    texts.forEach((/** @type {any} */ text, /** @type {number} */ index) => text.colour(made[index]));
  }
  replace(
    chains,
    texts.length
      ? texts.map((/** @type {any} */ text, /** @type {number} */ index) => [
          texts.length > 1 && h("h2", null, `Chain ${index + 1}`),
          text.element,
        ])
      : h("p", { class: "muted" }, "This episode has no tokens: its policy was a program or an endpoint that gives only text."),
  );
  replace(readout, "Point at a token, or move through them with the arrow keys.");
  colour(route.query);

  const to = (/** @type {number} */ by) => () => {
    const next = siblings[siblings.indexOf(id) + by];
    if (next)
      go(
        link(["runs", run, "tokens", next], {
          ...route.query,
          colour: new URLSearchParams(location.hash.split("?")[1]).get("colour"),
        }),
      );
  };
  const place = siblings.indexOf(id);
  return {
    content: h(
      "div",
      { class: "tokens-view" },
      h(
        "div",
        { class: "view-head" },
        h("h1", null, inline(id)),
        h(
          "div",
          { class: "toolbar" },
          siblings.length > 1 && [
            h(
              "button",
              { type: "button", onclick: to(-1), disabled: place <= 0, "aria-label": "Previous episode of the group" },
              "←",
            ),
            h("span", null, `${place + 1} of ${siblings.length}`),
            h(
              "button",
              { type: "button", onclick: to(1), disabled: place >= siblings.length - 1, "aria-label": "Next episode of the group" },
              "→",
            ),
          ],
          h("a", { class: "button", href: groupLink }, "Group"),
        ),
      ),
      h(
        "p",
        { class: "facts" },
        joined(
          [
            verdict(episode.correct),
            `reward ${fixed(episode.reward)}`,
            `advantage ${signed(episode.advantage)}${episode.advantage_source === "group" ? " (calculated)" : ""}`,
            plural(
              episode.tokens?.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.pieces.length, 0) ?? 0,
              "token",
            ),
            `${count(episode.sampled_tokens)} sampled`,
          ],
          " · ",
        ),
      ),
      h("div", { class: "token-bar" }, choice.element, legend, readout),
      chains,
    ),
    crumbs: [
      { text: "Runs", href: link([]) },
      { text: run, href: link(["runs", run]) },
      { text: name || "Tasks", href: link(["runs", run, "tasks"], { name }) },
      { text: episode.group_id ?? "Group", href: groupLink },
      { text: "Tokens", href: link(route.path, route.query) },
    ],
    update: (next) => colour(next.query),
    close: () => texts.forEach((/** @type {any} */ text) => text.close()),
    keys: { j: to(1), k: to(-1), g: () => go(groupLink) },
  };
}
