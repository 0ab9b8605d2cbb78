// The list of pairs beside the one in focus.

import { called } from "./media.js";
import { excerpts } from "./words.js";

const part = (id) => document.getElementById(id);
const made = new Map(); // rows by the number of their pair, so that the focus survives another drawing

/** Draw the rows of a window; `choose(number)` is called with the one that was clicked. */
export function drawRows(view, current, choose) {
  const list = part("rows");
  const there = new Set(view.pairs.map((pair) => pair.number));
  for (const number of made.keys()) if (!there.has(number)) made.delete(number);
  const rows = view.pairs.map((pair) => {
    if (!made.has(pair.number)) made.set(pair.number, row(pair, choose));
    const button = made.get(pair.number).firstChild;
    const focused = pair.number === current;
    button.tabIndex = focused ? 0 : -1;
    if (focused) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    return made.get(pair.number);
  });
  const kept = list.children.length === rows.length && rows.every((one, k) => one === list.children[k]);
  if (!kept) {
    const focused = document.activeElement;
    list.replaceChildren(...rows);
    if (list.contains(focused)) focused.focus({ preventScroll: true }); // taking a row out and in again drops it
  }
  list.start = view.start + 1;
  part("earlier").hidden = !view.earlier;
  part("later").hidden = view.complete;
  part("end").hidden = !view.complete || view.pairs.length === 0;
  part("end").textContent = `The end of ${view.counts?.[view.filter.state]?.toLocaleString("en") ?? ""} listed pairs.`;
}

/** Forget the rows, as another list begins. */
export function forgetRows() {
  made.clear();
}

/** Bring a row into view; returns its button, null where it is not listed. */
export function rowOf(number) {
  const button = made.get(number)?.firstChild ?? null;
  button?.scrollIntoView({ block: "nearest" });
  return button;
}

function row(pair, choose) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const likely = document.createElement("span");
  const texts = document.createElement("span");
  button.type = "button";
  button.className = "row";
  button.dataset.number = String(pair.number);
  likely.className = "likely";
  likely.textContent = pair.probability === null ? "–" : `${Math.min(99, Math.max(1, Math.round(100 * pair.probability)))} %`;
  texts.className = "row-texts";
  for (const { before, differs, after } of excerpts(...[1, 2].map((side) => (pair.media ? called(pair, side) : pair[`text${side}`])))) {
    const line = document.createElement("span");
    const mark = document.createElement("b");
    mark.textContent = differs;
    line.append(before, mark, after);
    line.dir = "auto";
    texts.append(line);
  }
  button.append(likely, texts);
  button.addEventListener("click", () => choose(pair.number));
  item.append(button);
  return item;
}
