/** How a token's figure becomes one of a few colours. A class names the colour; the style sheet knows it for light and for dark. */

import { fixed, isNumber, number, signed } from "./format.js";

/**
 * @typedef {{pieces: string[], mask: number[], logprobs: (number | null)[], versions: number[], learner_logprobs: (number | null)[] | null,
 *   advantages: (number | null)[] | null, prompt_length: number, chain: number, token_ids?: number[]}} Chain
 * @typedef {{className: (index: number) => string, say: (index: number) => string, legend: {className: string, label: string}[]}} Colouring
 */

/** @type {[string, string][]} */
export const KINDS = [
  ["mask", "Loss mask"],
  ["logprob", "Log-probability"],
  ["gap", "Sampler − learner"],
  ["advantage", "Advantage"],
  ["version", "Policy version"],
];

/** Largest size of the sampled tokens' values. @param {(number | null)[]} values @param {number[]} mask */
function reach(values, mask) {
  let most = 0;
  values.forEach((value, index) => {
    if (mask[index] && isNumber(value)) most = Math.max(most, Math.abs(value));
  });
  return most;
}

/** @param {number} value @param {number} most @returns {number} −4…4 */
function signedStep(value, most) {
  return most ? Math.max(-4, Math.min(4, Math.round((4 * value) / most))) : 0;
}

/** From a value in −4…4 to a class. @param {number} step */
const diverging = (step) => (step < 0 ? `minus-${-step}` : step > 0 ? `plus-${step}` : "level-0");

/** @param {Chain} chain @param {(number | null)[]} values @param {string} what @returns {Colouring} */
function around(chain, values, what) {
  const most = reach(values, chain.mask);
  return {
    className: (index) =>
      chain.mask[index]
        ? isNumber(values[index])
          ? diverging(signedStep(/** @type {number} */ (values[index]), most))
          : "unknown"
        : "context",
    say: (index) => (chain.mask[index] ? `${what} ${signedLong(values[index])}` : "not sampled"),
    legend: [-4, -2, 0, 2, 4].map((step) => ({ className: diverging(step), label: step ? signedLong((step * most) / 4) : "0" })),
  };
}

/** @param {unknown} value */
function signedLong(value) {
  return isNumber(value) && Math.abs(value) < 0.01 && value !== 0 ? (value > 0 ? "+" : "") + number(value) : signed(value);
}

/**
 * @param {string} kind @param {Chain} chain
 * @returns {Colouring | string} the text says why there is none
 */
export function colouring(kind, chain) {
  const { mask, logprobs, versions } = chain;
  if (kind === "logprob") {
    const steps = [0, 0.1, 0.5, 1, 2, 4];
    const level = (/** @type {number} */ value) => steps.findLastIndex((least) => -value >= least);
    return {
      className: (index) =>
        mask[index]
          ? isNumber(logprobs[index])
            ? `level-${Math.max(0, level(/** @type {number} */ (logprobs[index])))}`
            : "unknown"
          : "context",
      say: (index) => (mask[index] ? `log-probability ${fixed(logprobs[index], 3)}` : "not sampled"),
      legend: steps.map((least, index) => ({ className: `level-${index}`, label: index ? `≤ −${least}` : "0 (certain)" })),
    };
  }
  if (kind === "gap") {
    if (!chain.learner_logprobs) return "The learner's log-probabilities are not recorded for this episode.";
    const learner = chain.learner_logprobs;
    return around(
      chain,
      logprobs.map((value, index) => (isNumber(value) && isNumber(learner[index]) ? value - learner[index] : null)),
      "sampler − learner",
    );
  }
  if (kind === "advantage") {
    if (!chain.advantages) return "No advantage is known for this episode: it was not learned from, or has no group to compare with.";
    return around(chain, chain.advantages, "advantage");
  }
  if (kind === "version") {
    const known = [...new Set(versions.filter((_, index) => mask[index]))].sort((a, b) => a - b);
    const place = (/** @type {number} */ version) => Math.min(5, known.indexOf(version) + 1);
    return {
      className: (index) => (mask[index] ? `level-${place(versions[index])}` : "context"),
      say: (index) => (mask[index] ? `policy version ${versions[index]}` : "not sampled"),
      legend: known.slice(0, 5).map((version, index) => ({
        className: `level-${index + 1}`,
        label: index === 4 && known.length > 5 ? `${version} and later` : String(version),
      })),
    };
  }
  return {
    className: (index) => (mask[index] ? "plus-2" : "context"),
    say: (index) => (mask[index] ? "sampled: in the loss" : "not sampled: not in the loss"),
    legend: [
      { className: "plus-2", label: "sampled by the policy, in the loss" },
      { className: "context", label: "prompt or output of a tool" },
    ],
  };
}
