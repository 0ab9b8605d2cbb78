// Drawing without markup: SVG elements, their text as text.

/** Make an SVG element with attributes. */
export function shape(kind, facts, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
