"""HTML of posts to plain text."""

from __future__ import annotations

import re
from html import unescape

_INLINE = frozenset(
    ("a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark", "q", "s",
     "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var")
)  # fmt: skip
_UNSEEN = frozenset(("script", "style", "template"))
# Tags that need no parser: no comment, no declaration, attributes in double quotes. Hardly a post holds another.
_ATTRIBUTES = r'(?: [a-z-]+="[^"<>]*")* ?/?>'
_PLAIN_INLINE = re.compile(rf"</?(?:{'|'.join(sorted(_INLINE, key=len, reverse=True))}){_ATTRIBUTES}")
_PLAIN_BLOCK = re.compile(rf"</?[a-z][a-z0-9]*{_ATTRIBUTES}")
# Markup of any kind. Each alternative takes all that it looks at, so that the time grows with the length only: what
# has no ">" before the next tag is text, and a comment or script without an end hides the rest, as in a browser.
_INSIDE = r"""(?>=\s*(?>"[^"]*"|'[^']*')|[^<>])*+"""
_MARKUP = re.compile(
    rf"""(?P<unseen> <!--(?:-?>|.*?--!?>|.*)
                   | <(?P<raw>script|style)(?![^\s/>]){_INSIDE}(?<!/)>(?:.*?</(?P=raw)(?=[\s/>])[^>]*+>?|.*) )
       | <(?:[!?]|/(?![a-z]))[^>]*+>?
       | <(?P<end>/?)(?P<tag>[a-z][^\s/<>]*+){_INSIDE}>?""",
    re.S | re.I | re.X,
)
_LONG_NUMBER = re.compile(r"&#[0-9]{100,};?")  # of no character, and int() takes only so many digits
_NOTE = re.compile(r"\s*<blockquote>\s*<p>\s*<strong>\s*Possible Duplicates?:?\s*</strong>.*?</blockquote>\s*", re.S)


def html_to_text(html: str) -> str:
    r"""Return what a reader of some HTML sees: a line for each block, entities resolved; whatever the HTML.

    Example:
        >>> html_to_text("<p>Why is <b>re</b>d &lt; blue?</p><ul><li>one</li><li>two</li></ul>")
        'Why is red < blue?\none\ntwo'
    """
    text = _PLAIN_BLOCK.sub("\n", _PLAIN_INLINE.sub("", html))
    plain = "<" not in text and not any(f"<{name}" in html for name in _UNSEEN)
    text = _resolved(text) if plain else _seen(html)
    return "\n".join(filter(None, map(str.strip, text.split("\n"))))


def without_duplicate_note(html: str) -> str:
    """Return the HTML of a post without the note that begins "Possible Duplicate:".

    Stack Exchange once put it there when a question was closed, with the title of the other: it gives the label away.
    """
    found = _NOTE.match(html)
    return html[found.end() :] if found else html


def _seen(html: str) -> str:
    """Return the text between tags, for HTML of any kind."""
    pieces: list[str] = []
    templates = at = 0
    for found in _MARKUP.finditer(html):
        whole = found[0]
        if found["unseen"] is None and not whole.endswith(">"):
            continue
        if not templates:
            pieces.append(_resolved(html[at : found.start()]))
        at = found.end()
        tag = (found["raw"] or found["tag"] or "").lower()
        if tag == "template" and not whole.endswith("/>"):
            templates = max(templates + (-1 if found["end"] else 1), 0)
        pieces.append("\n" if tag and tag not in _INLINE else "")
    if not templates:
        pieces.append(_resolved(html[at:]))
    return "".join(pieces)


def _resolved(text: str) -> str:
    """Return a text with what its entities stand for."""
    return unescape(_LONG_NUMBER.sub("\ufffd", text))
