/** Follows a run that is trained, or whose files are still being read: asks the server every two seconds what has changed. */

import { api } from "./api.js";

const EVERY_MS = 2000;

/** What the head of the page says about a run. @param {any} about its entry in the list of runs @returns {[string, string]} text and class */
function stateOf(about) {
  const { files = 0, of = 0 } = about?.indexed ?? {};
  if (about?.live) return ["Live", "live"];
  return files < of ? [`Reading ${files} of ${of} files`, "muted"] : ["", ""];
}

/**
 * @param {string} run
 * @param {any} first the run's entry in the list of runs
 * @param {(changed: string[]) => Promise<void> | void} onchange
 * @returns {() => void} ends it
 */
export function follow(run, first, onchange) {
  const state = document.getElementById("live");
  const ended = new AbortController();
  let timer = 0;
  /** @type {string | null} */
  let version = null;

  /** @param {string} text @param {string} kind */
  function say(text, kind) {
    if (!state || (state.textContent === text && state.className === kind)) return;
    state.textContent = text;
    state.className = kind;
  }

  async function ask() {
    if (!document.hidden) {
      try {
        const answer = await api.changes(run, version, ended.signal);
        const news = version !== null && answer.changed.length > 0;
        version = answer.version;
        const about = (await api.runs(ended.signal)).find((/** @type {any} */ one) => one.id === run);
        if (news) await onchange(answer.changed);
        if (ended.signal.aborted) return;
        say(...stateOf(about));
        // A run that has ended and is read changes no more.
        if (!stateOf(about)[0]) return;
      } catch {
        if (ended.signal.aborted) return;
        say("Not connected", "failure");
      }
    }
    timer = window.setTimeout(ask, EVERY_MS);
  }
  say(...stateOf(first));
  if (stateOf(first)[0]) timer = window.setTimeout(ask, 0);
  return () => {
    ended.abort();
    window.clearTimeout(timer);
    say("", "");
  };
}
