// What the page says where there is no pair to show: why, and what to do.

import { isolated } from "./pair.js";

/** Return the title, the text and the action for an empty list; see `showEmpty`. */
export function whyEmpty(view, { list, showAll, exportAll }) {
  const { state, search, atLeast, tag, since, until } = view.filter;
  const { accepted, rejected } = view.counts;
  if (view.counts[state] > 0) return { title: "Loading…", text: "" };
  if (search || atLeast > 0 || tag || since || until) {
    const why = [search && `containing “${isolated(search)}”`, atLeast > 0 && `at or above ${atLeast.toFixed(2)}`,
                 tag && `tagged “${isolated(tag)}”`, since && `of ${since} or later`, until && `of ${until} or earlier`];
    const text = `There is no ${state} pair ${why.filter(Boolean).join(" and ")}.`;
    return { title: "No match", text, action: "Show all", act: showAll };
  }
  if (state !== "waiting") {
    const text = `Pairs that you ${state === "accepted" ? "accept with a" : "reject with r"} are listed here.`;
    return { title: `Nothing ${state} yet`, text, action: "To the waiting pairs", act: () => list({ state: "waiting" }) };
  }
  if (accepted + rejected > 0) {
    const text =
      `${accepted.toLocaleString("en")} accepted, ${rejected.toLocaleString("en")} rejected. Export them and run ` +
      "textsiam recalibrate on the file: the threshold then follows your decisions.";
    return { title: "All done: nothing is waiting", text, action: "Export decisions", act: exportAll };
  }
  const text =
    "Questions that look like ones already in the index are queued when they are put there: PUT /questions/{id} or " +
    "POST /questions:batch. This page looks for new pairs by itself.";
  return { title: "Nothing is waiting yet", text };
}
