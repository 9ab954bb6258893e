/** The slider that smooths curves; the address keeps it. */

import { h } from "../parts/dom.js";
import { setQuery } from "../parts/route.js";

const MOST = 0.95;

/** @returns {{element: HTMLElement, show: (query: Record<string, string>) => number}} `show` sets the slider and gives the weight */
export function smoothing() {
  const slider = h("input", { type: "range", min: 0, max: MOST, step: 0.05, "aria-label": "Smoothing" });
  const said = h("output", null);
  slider.addEventListener("input", () => setQuery({ smooth: Number(slider.value) || null }));
  return {
    element: h("label", null, "Smoothing ", slider, " ", said),
    show(query) {
      const weight = Math.min(MOST, Math.max(0, Number(query.smooth) || 0));
      slider.value = String(weight);
      said.textContent = weight ? weight.toFixed(2) : "off";
      return weight;
    },
  };
}
