/** Elements by function. Text goes in as text nodes only: nothing here, or anywhere in the page, parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {any} Child a node, text, a number, a list of them; null, undefined and false are left out
 * @typedef {Record<string, any>} Props attributes; `on…` are listeners, `class` is the class, true is an empty attribute, null and false none
 */

/**
 * @template {Element} T
 * @param {T} element @param {Props | null | undefined} props @param {Child[]} children
 * @returns {T}
 */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** @param {Node} parent @param {Child[]} children */
export function append(parent, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(parent, child);
    else parent.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An HTML element. @param {string} tag @param {Props | null} [props] @param {...Child} children @returns {any} */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. @param {string} tag @param {Props | null} [props] @param {...Child} children @returns {any} */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** @param {Element} parent @param {...Child} children */
export function replace(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/** Children with `between` between two of them, as in "a, b". @param {Child[]} children @param {string} between @returns {Child[]} */
export function joined(children, between) {
  return children.flatMap((child, index) => (index ? [between, child] : [child]));
}
