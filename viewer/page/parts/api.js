/** What the server answers, as JSON. All requests are GET to the page's own origin. */

const part = encodeURIComponent;

/** @param {Record<string, unknown>} query @returns {string} `?a=b`, or "" if nothing is set */
export function queryString(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
}

/**
 * @param {string} path @param {Record<string, unknown>} [query] @param {AbortSignal} [signal]
 * @returns {Promise<any>} throws an Error with the server's one line
 */
async function get(path, query = {}, signal, tries = 4) {
  let response;
  try {
    response = await fetch(`/api/${path}${queryString(query)}`, { signal, headers: { accept: "application/json" } });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("the server does not answer: does `toolwise view` still run?");
  }
  const body = await response.json().catch(() => null);
  if ([409, 503].includes(response.status) && tries > 1) {
    // A file is being written anew; the next answer is about the new one.
    await new Promise((done) => setTimeout(done, 300));
    return get(path, query, signal, tries - 1);
  }
  if (!response.ok) throw new Error(body?.error ?? `the server answered ${response.status}`);
  return body;
}

/** @param {string} run */
const at = (run) => `runs/${part(run)}`;

export const api = {
  /** @param {AbortSignal} [signal] */
  runs: (signal) => get("runs", {}, signal).then((body) => body.runs),
  /** @param {string} run @param {AbortSignal} [signal] */
  metrics: (run, signal) => get(`${at(run)}/metrics`, {}, signal),
  /** @param {string} run @param {AbortSignal} [signal] */
  evaluation: (run, signal) => get(`${at(run)}/evaluation`, {}, signal),
  /** @param {string} run @param {AbortSignal} [signal] */
  names: (run, signal) => get(`${at(run)}/names`, {}, signal),
  /** @param {string} run @param {"tasks" | "episodes"} what @param {object} query @param {AbortSignal} [signal] */
  rows: (run, what, query, signal) => get(`${at(run)}/${what}`, { ...query }, signal),
  /** @param {string} run @param {string} name @param {AbortSignal} [signal] */
  facets: (run, name, signal) => get(`${at(run)}/facets`, { name }, signal),
  /** @param {string} run @param {string} group @param {string} name @param {AbortSignal} [signal] */
  group: (run, group, name, signal) => get(`${at(run)}/groups/${part(group)}`, { name }, signal),
  /** @param {string} run @param {string} episode @param {object} query @param {AbortSignal} [signal] */
  episode: (run, episode, query, signal) => get(`${at(run)}/episodes/${part(episode)}`, { ...query }, signal),
  /** @param {string} run @param {string} task @param {AbortSignal} [signal] */
  item: (run, task, signal) => get(`${at(run)}/items/${part(task)}`, {}, signal),
  /** @param {string} a @param {string} b @param {object} query @param {AbortSignal} [signal] */
  compare: (a, b, query, signal) => get("compare", { a, b, ...query }, signal),
  /** @param {string} run @param {string | number | null} since @param {AbortSignal} [signal] */
  changes: (run, since, signal) => get(`${at(run)}/changes`, { since }, signal),
  /** @param {string} run @param {string} sha */
  image: (run, sha) => `/api/${at(run)}/images/${part(sha)}`,
};
