/** Addresses of views: `#/runs/R/tasks?name=N&sort=-reward`. A link restores what one saw. */

import { queryString } from "./api.js";

/**
 * @typedef {{path: string[], query: Record<string, string>}} Route
 */

/** @param {string} hash @returns {Route} */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { path: path.split("/").filter(Boolean).map(decoded), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {(string | number)[]} path @param {Record<string, unknown>} [query] @returns {string} the hash */
export function link(path, query = {}) {
  return `#/${path.map(encodeURIComponent).join("/")}${queryString(query)}`;
}

/** @returns {Route} */
export const current = () => parse(location.hash);

/** @param {string} hash */
export function go(hash) {
  location.hash = hash;
}

/**
 * Changes some of the query, without a new entry in the history unless `push`. Empty values leave it.
 * @param {Record<string, unknown>} changes @param {{push?: boolean}} [options]
 */
export function setQuery(changes, { push = false } = {}) {
  const { path, query } = current();
  const hash = link(path, { ...query, ...changes });
  if (hash === location.hash) return;
  if (push) {
    location.hash = hash;
  } else {
    history.replaceState(null, "", hash);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  }
}
