// Elements are made here and never from text: nothing a server or a file says can become markup.

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const make = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

export const makeSvg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Replace what `parent` holds; who had the keyboard keeps it where a control of the same id comes back. */
export function refill(parent, ...children) {
  const id = parent.contains(document.activeElement) ? document.activeElement.id : "";
  const opened = [...parent.querySelectorAll("details[open][id]")].map((details) => details.id);
  parent.replaceChildren(...children.flat().filter(Boolean));
  for (const details of opened) byId(details)?.setAttribute("open", "");
  if (id) (byId(id) ?? parent.querySelector("button, [tabindex='0']"))?.focus({ preventScroll: true });
}

/** Let the user keep `blob` under `name`. */
export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const percent = (share) => `${Math.round(100 * share)} %`;
