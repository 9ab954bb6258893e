/** Follows a running training: asks the server every two seconds what has changed. */

import { api } from "./api.js";

const EVERY_MS = 2000;

/**
 * @param {string} run
 * @param {(changed: string[]) => Promise<void> | void} onchange
 * @returns {() => void} ends it
 */
export function follow(run, onchange) {
  const state = document.getElementById("live");
  const ended = new AbortController();
  /** @type {string | number | null} */
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
        const known = version !== null;
        version = answer.version;
        if (known && answer.changed.length) await onchange(answer.changed);
        if (ended.signal.aborted) return;
        if (answer.live === false) return say("", "");
        say("Live", "live");
      } catch {
        if (ended.signal.aborted) return;
        say("Not connected", "failure");
      }
    }
    timer = window.setTimeout(ask, EVERY_MS);
  }
  let timer = window.setTimeout(ask, 0);
  return () => {
    ended.abort();
    window.clearTimeout(timer);
    say("", "");
  };
}
