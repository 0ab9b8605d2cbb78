// Single keys, where they mean what a moderator expects: not while typing, not in a dialogue, not with a modifier.

import { busy, remember, remembered } from "./frame.js";

const ARROWS = { ArrowDown: "j", ArrowUp: "k", ArrowRight: "j", ArrowLeft: "k" };
const MOVES = new Set(["j", "k"]);

/** The key without Caps Lock, and the Latin letter in its place where the layout has other letters. */
function letter({ key, code }) {
  if (key.length !== 1) return key;
  const place = /^Key([A-Z])$/.exec(code ?? "");
  return (key > "\x7f" && place ? place[1] : key).toLowerCase();
}

/** Act on keys; `acts` maps a key to what it does. */
export function startKeys(acts) {
  const on = document.getElementById("keys-on");
  on.checked = remembered("keys") !== "off";
  on.addEventListener("change", () => remember("keys", on.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || busy()) return;
    const { target } = event;
    const arrow = event.key in ARROWS;
    const key = arrow ? ARROWS[event.key] : letter(event);
    const typing = target instanceof HTMLInputElement && !["checkbox", "range"].includes(target.type);
    const ownArrows = arrow && target instanceof HTMLInputElement && target.type === "range";
    if (key !== "Escape" && (typing || ownArrows || !(on.checked || arrow))) return;
    const act = acts[key];
    if (act === undefined || (event.repeat && !MOVES.has(key))) return; // a key held down decides once
    event.preventDefault();
    act();
  });
}
