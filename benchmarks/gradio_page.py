"""The moderator's flow as a Gradio app, to compare the page of `textsiam serve` with; run by `benchmarks/page.py`.

    python gradio_page.py REVIEWS.sqlite CURVE.json PORT     # needs gradio, uvicorn, sqlalchemy, textsiam's sources

Queue, differences, accept, reject and undo by key, search, and a threshold slider over the curve: as far as Gradio's
own components go. Keys are no part of them, so a script in the page's head clicks the buttons.
"""

from __future__ import annotations

import difflib
import json
import re
import sys

import gradio as gr
import pandas as pd
import uvicorn
from fastapi import FastAPI

from textsiam.serving.page.reviews import Reviews

KEYS = """<script>
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const id = {a: "accept", r: "reject", u: "undo"}[event.key];
  if (id) document.getElementById(id).click();
});
</script>"""


def marked(text, other):
    """Return the runs of a text, those that the other does not have marked."""
    one, two = (re.findall(r"\w+|\W+", side) for side in (text, other))
    blocks = difflib.SequenceMatcher(None, [w.lower() for w in one], [w.lower() for w in two], autojunk=False)
    runs = []
    for kind, start, end, _, _ in blocks.get_opcodes():
        if end > start:
            runs.append(("".join(one[start:end]), None if kind == "equal" else "differs"))
    return runs


def page(reviews, curve):
    """Build the app."""
    table = pd.DataFrame(
        [
            {"probability": p, "share": share, "of": name}
            for name in ("precision", "recall")
            for p, share in zip(curve["probabilities"], curve[name], strict=True)
        ]
    )

    def shown(search=""):
        pairs = reviews.queue(search=search, limit=50)
        rows = [[round(100 * pair.suspect.probability), pair.suspect.text1, pair.suspect.text2] for pair in pairs]
        if not pairs:
            return None, "Nothing is waiting", [], [], rows, ""
        first = pairs[0].suspect
        head = f"## {round(100 * first.probability)} % likely the same\nSimilarity {first.similarity:.3f}"
        counts = " · ".join(f"{state} {number:,}" for state, number in reviews.count(search=search).items())
        return (
            pairs[0].number,
            head,
            marked(first.text1, first.text2),
            marked(first.text2, first.text1),
            rows,
            counts,
        )

    def decided(number, duplicate, search):
        if number is not None:
            reviews.decide(number, duplicate=duplicate)
        return shown(search)

    def undone(search):
        reviews.undo()
        return shown(search)

    def cost(threshold):
        at = [k for k, p in enumerate(curve["probabilities"]) if p >= threshold]
        if not at:
            return f"At {threshold:.2f}: nothing would be flagged."
        right, found = curve["precision"][at[-1]], curve["recall"][at[-1]]
        waiting = reviews.count(at_least=threshold)["waiting"]
        return f"At {threshold:.2f}: {right:.0%} of flagged pairs are right, {found:.0%} found; {waiting:,} waiting"

    with gr.Blocks(title="Suspected duplicates", analytics_enabled=False) as blocks:
        number = gr.State()
        search = gr.Textbox(label="Search")
        head = gr.Markdown(elem_id="verdict")
        with gr.Row():
            first = gr.HighlightedText(label="First question", elem_id="first")
            second = gr.HighlightedText(label="Second question", elem_id="second")
        with gr.Row():
            accept = gr.Button("Same question (a)", variant="primary", elem_id="accept")
            reject = gr.Button("Different (r)", elem_id="reject")
            undo = gr.Button("Undo (u)", elem_id="undo")
        counts = gr.Markdown(elem_id="counts")
        queue = gr.Dataframe(headers=["%", "first", "second"], interactive=False)
        gr.LinePlot(table, x="probability", y="share", color="of", title="What a threshold costs")
        slider = gr.Slider(0, 1, value=0.5, step=0.01, label="Threshold")
        readout = gr.Markdown()
        outputs = [number, head, first, second, queue, counts]
        blocks.load(shown, None, outputs)
        accept.click(lambda n, s: decided(n, True, s), [number, search], outputs, show_progress="hidden")
        reject.click(lambda n, s: decided(n, False, s), [number, search], outputs, show_progress="hidden")
        undo.click(undone, search, outputs, show_progress="hidden")
        search.change(shown, search, outputs)
        slider.change(cost, slider, readout)
    return blocks


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as source:
        blocks = page(Reviews(sys.argv[1]), json.load(source))
    app = gr.mount_gradio_app(FastAPI(), blocks, "/ui", head=KEYS, ssr_mode=False)
    uvicorn.run(app, port=int(sys.argv[3]), log_level="warning")
