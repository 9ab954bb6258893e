/** Numbers of a curve: axes, smoothing, and how many points are worth drawing. */

import { isNumber } from "../parts/format.js";

/** @typedef {(number | null)[]} Values */

/**
 * A running mean that forgets: each value weighs `1 - weight` of the rest, corrected for the start as in Adam.
 * @param {Values} values @param {number} weight in [0, 1); 0 changes nothing
 * @returns {Values}
 */
export function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let sum = 0;
  return values.map((value) => {
    if (!isNumber(value)) return null;
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

/** @param {number} low @param {number} high @param {number} [about] @returns {number[]} round numbers within */
export function ticks(low, high, about = 5) {
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 2.5, 5].find((one) => one * power >= raw) ?? 10);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step)
    found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

/** Powers of ten within. @param {number} low @param {number} high @returns {number[]} */
export function decades(low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / 5));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => 10 ** (first + index)).filter(
    (_, index) => index % every === 0,
  );
}

/**
 * The range of an axis. Fractions keep 0…1 if they fill it.
 * @param {number[]} values finite @param {boolean} log
 * @returns {[number, number]}
 */
export function extent(values, log) {
  const usable = log ? values.filter((value) => value > 0) : values;
  if (!usable.length) return log ? [0.1, 1] : [0, 1];
  let low = Infinity;
  let high = -Infinity;
  for (const value of usable) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (log) return [low / 1.3, high * 1.3];
  if (low >= 0 && low < 0.5 * high) low = 0;
  if (low === high) return low === 0 ? [0, 1] : [low - Math.abs(low) * 0.5, high + Math.abs(high) * 0.5];
  if (low >= 0 && high <= 1 && high > 0.6) return [low > 0.3 ? Math.floor(low * 10) / 10 : 0, 1];
  const room = 0.05 * (high - low);
  return [low === 0 ? 0 : low - room, high + room];
}

/**
 * Indices of at most about `limit` points that keep the peaks: of each stretch its lowest and its highest.
 * @param {Values} values @param {number} limit
 * @returns {number[]}
 */
export function thinned(values, limit) {
  if (values.length <= limit) return values.map((_, index) => index);
  const size = Math.ceil((2 * values.length) / limit);
  const kept = [];
  for (let start = 0; start < values.length; start += size) {
    const end = Math.min(values.length, start + size);
    let low = start;
    let high = start;
    for (let at = start; at < end; at++) {
      if ((values[at] ?? Infinity) < (values[low] ?? Infinity)) low = at;
      if ((values[at] ?? -Infinity) > (values[high] ?? -Infinity)) high = at;
    }
    kept.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  return kept;
}
