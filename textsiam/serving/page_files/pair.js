// The pair in focus: two questions side by side, what differs between them, and how likely they are the same.

import { called, showMedia } from "./media.js";
import { compare } from "./words.js";

const part = (id) => document.getElementById(id);
const STATES = { waiting: "Waiting", accepted: "Accepted: the same", rejected: "Rejected: different",
                 related: "Rejected: related", unsure: "Somebody was not sure" };
let shown = null; // the number of the pair whose note is being written

const TURNS = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]/;

/** Keep a text that is written from right to left from turning what stands around it. */
export const isolated = (text) => (TURNS.test(text) ? `\u2068${text}\u2069` : text);

/** Who decided, and when: ", by Anna, 14:02". */
function whoAndWhen({ moderator, decided }) {
  if (decided === null) return moderator ? `by ${isolated(moderator)}` : "";
  const date = new Date(1000 * decided);
  const day = date.toDateString() === new Date().toDateString() ? "" : `${date.toLocaleDateString("en-CA")} `;
  const moment = day + date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return moderator ? `by ${isolated(moderator)}, ${moment}` : moment;
}

/** Say why a decision was not written: what somebody else has decided. */
export function conflictOf(pair) {
  if (pair.state === "waiting") return `Pair ${pair.number} waits again: look at it once more.`;
  return `Pair ${pair.number} is already ${pair.choice ?? pair.state} ${whoAndWhen(pair)}.`.replace(" .", ".");
}

/** The note and the question that stands for both, as they were chosen beside the pair in focus. */
export function chosenBeside(pair) {
  const kept = ["1", "2"].find((side) => part(`keep${side}`).getAttribute("aria-pressed") === "true");
  const found = { note: part("note").value.trim() || null, canonical: kept ? pair[`text${kept}`] : null };
  shown = null;
  return found;
}

/** A share in whole percent, without claiming certainty: "over 99 %" and not "100 %". */
export function percent(share) {
  if (share > 0.99) return "over 99 %";
  if (share < 0.01) return "under 1 %";
  return `${Math.round(100 * share)} %`;
}

/** How likely a pair is the same, as a sentence without its full stop. */
export function verdict(pair) {
  if (pair.probability === null) return "How likely is not known";
  const said = `${percent(pair.probability)} likely the same`;
  return said[0].toUpperCase() + said.slice(1);
}

/** Show a pair. */
export function showPair(pair, place) {
  part("filled").hidden = false;
  part("empty").hidden = true;
  part("verdict").textContent = verdict(pair);
  const held = pair.since ?? pair; // what others decided while it stood here
  const choice = held.state === "waiting" && held.choice !== "unsure" ? "waiting" : held.choice ?? held.state;
  part("state").textContent = STATES[choice];
  part("state").className = `chip ${held.state}`;
  part("state").hidden = choice === "waiting";
  part("decided").textContent = choice === "waiting" ? "" : said(held);
  part("place").textContent = place;
  part("meter").style.setProperty("--share", String(pair.probability ?? 0));
  const similarity = pair.similarity === null ? "Not scored by the model." : `Similarity ${pair.similarity.toFixed(3)}.`;
  part("facts").textContent = `${similarity} Pair ${pair.number}.`;
  showTexts(pair);
  if (shown === pair.number) return;
  shown = pair.number;
  part("note").value = "";
  for (const side of ["1", "2"]) {
    const kept = pair.canonical !== null && pair.canonical?.text === pair[`text${side}`];
    part(`keep${side}`).setAttribute("aria-pressed", String(kept));
    part(`text${side}`).scrollTop = 0;
  }
}

function said(pair) {
  const sentence = whoAndWhen(pair);
  const note = pair.note ? ` Note: ${isolated(pair.note)}` : "";
  return sentence ? `${sentence[0].toUpperCase()}${sentence.slice(1)}.${note}` : note.trim();
}

let leader = null; // of two long questions, the one that is being scrolled
for (const [own, other] of [["text1", "text2"], ["text2", "text1"]]) {
  part(own).addEventListener("scroll", () => {
    if (leader !== null && leader !== own) return;
    leader = own;
    const [a, b] = [part(own), part(other)];
    const room = a.scrollHeight - a.clientHeight;
    if (room > 0) b.scrollTop = (a.scrollTop / room) * (b.scrollHeight - b.clientHeight);
    requestAnimationFrame(() => requestAnimationFrame(() => (leader = null)));
  });
}

/** Show the two questions of a pair, what is known of each, and what differs. */
export function showTexts(pair) {
  for (const side of ["1", "2"]) {
    part(`id${side}`).textContent = pair[`id${side}`] ?? "";
    part(`known${side}`).replaceChildren(...known(pair[`facts${side}`] ?? {}));
  }
  if (pair.media) {
    showMedia(pair);
    return;
  }
  const { left, right, exact, identical, fine } = compare(pair.text1, pair.text2);
  part("text1").replaceChildren(...marked(left, "del"));
  part("text2").replaceChildren(...marked(right, "ins"));
  for (const side of ["1", "2"]) {
    const text = part(`text${side}`); // the keyboard reaches what scrolls
    if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
    else text.removeAttribute("tabindex");
  }
  part("legend").textContent = identical
    ? "Identical."
    : fine
      ? "Marked: all that differs is case, punctuation, spaces, or characters that look alike."
      : exact
        ? "Marked: what the other question does not have in this place."
        : "Marked: what the other question does not have at all, as these texts are very long.";
}

/** Show that there is nothing to show, and what to do about it. */
export function showEmpty({ title, text, action, act }) {
  part("filled").hidden = true;
  part("empty").hidden = false;
  part("empty-title").textContent = title;
  part("empty-text").textContent = text;
  const button = part("empty-action");
  button.hidden = !action;
  button.textContent = action ?? "";
  button.onclick = act ?? null;
}

/** Have a pair read aloud, for those who do not see it: how likely, both questions, and the words that differ. */
export function speak(pair) {
  part("spoken").textContent = `${verdict(pair)}. ${spokenTexts(pair)}`;
}

/** Both questions and the words that differ, as they are read aloud. */
export function spokenTexts(pair) {
  if (pair.media) return `The first: ${called(pair, 1)}. The second: ${called(pair, 2)}.`;
  const short = (text) => (text.length > 400 ? `${text.slice(0, 400)} and so on` : text);
  const { left, right } = compare(pair.text1, pair.text2);
  return (
    `First question: ${short(pair.text1)} Second question: ${short(pair.text2)} ` +
    `${only("first", left)} ${only("second", right)}`
  );
}

/** What else is known of a question: its date, its tags and all else, and a link to where it was asked. */
export function known({ url, created, ...others }) {
  const facts = Object.entries(others).map(([name, value]) => `${name}: ${value}`);
  if (created) facts.unshift(/^\d{4}-\d\d-\d\dT/.test(created) ? created.slice(0, 10) : created);
  const said = facts.map(isolated).join(" · ");
  if (!/^https?:\/\//i.test(url ?? "")) return [[said, url && isolated(url)].filter(Boolean).join(" · ")].filter(Boolean);
  const link = document.createElement("a");
  Object.assign(link, { href: url, textContent: url, target: "_blank", rel: "noopener noreferrer" });
  return said ? [`${said} · `, link] : [link];
}

function marked(runs, tag) {
  return runs.map((run) => {
    if (!run.differs) return document.createTextNode(run.text);
    const mark = document.createElement(tag);
    mark.textContent = run.text;
    return mark;
  });
}

function only(which, runs) {
  const words = runs.filter((run) => run.differs).map((run) => run.text.trim());
  return words.length && words.length < 20 ? `Only in the ${which}: ${words.join(", ")}.` : "";
}
