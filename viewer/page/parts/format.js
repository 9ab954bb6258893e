/** Numbers and times as short text. What is not there, or is no number, is "–". */

export const NOTHING = "–";

/** @param {unknown} value @returns {value is number} */
export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** About four significant digits. @param {unknown} value */
export function number(value) {
  if (!isNumber(value)) return NOTHING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e").replace("-", "−").replace("e-", "e−");
  if (Number.isInteger(value)) return count(value);
  return minus(value.toFixed(size >= 100 ? 1 : size >= 1 ? 2 : 3));
}

/** A number on an axis: as short as it can be. @param {number} value */
export function tick(value) {
  return number(value)
    .replace(/(\.\d*?)0+(?=$|e)/, "$1")
    .replace(/\.(?=$|e)/, "");
}

/** With so many decimals, for columns that align. @param {unknown} value @param {number} [decimals] */
export function fixed(value, decimals = 2) {
  return isNumber(value) ? minus(value.toFixed(decimals)) : NOTHING;
}

/** @param {unknown} value */
export function signed(value) {
  return isNumber(value) ? (value > 0 ? "+" : "") + fixed(value) : NOTHING;
}

/** @param {unknown} value */
export function count(value) {
  return isNumber(value) ? minus(value.toLocaleString("en", { maximumFractionDigits: 0 })) : NOTHING;
}

/** @param {unknown} value a fraction */
export function percent(value, decimals = 1) {
  return isNumber(value) ? `${minus((100 * value).toFixed(decimals))}%` : NOTHING;
}

/** A difference of two fractions in percentage points, with its sign. @param {unknown} value */
export function points(value) {
  return isNumber(value) ? `${value > 0 ? "+" : ""}${minus((100 * value).toFixed(0))}` : NOTHING;
}

/** @param {unknown} seconds */
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds === 0) return "0 s";
  if (seconds < 0.0995) return `${(1000 * seconds).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** How long ago, in words. @param {unknown} unixSeconds */
export function ago(unixSeconds) {
  if (!isNumber(unixSeconds)) return NOTHING;
  const seconds = Math.max(0, Date.now() / 1000 - unixSeconds);
  for (const [unit, size] of /** @type {[string, number][]} */ ([
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
  ])) {
    const whole = Math.floor(seconds / size);
    if (whole) return `${whole} ${unit}${whole > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

/** @param {number} number @param {string} noun */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** @param {string} text */
function minus(text) {
  return text.replace("-", "−");
}
