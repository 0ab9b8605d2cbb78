"""HTML of posts to plain text."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

_INLINE = frozenset(
    ("a", "abbr", "b", "bdi", "bdo", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark", "q", "s",
     "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var")
)  # fmt: skip
_UNSEEN = frozenset(("script", "style", "template"))
# Tags that need no parser: no comment, no declaration, attributes in double quotes. Hardly a post holds another.
_ATTRIBUTES = r'(?: [a-z-]+="[^"<>]*")* ?/?>'
_PLAIN_INLINE = re.compile(rf"</?(?:{'|'.join(sorted(_INLINE, key=len, reverse=True))}){_ATTRIBUTES}")
_PLAIN_BLOCK = re.compile(rf"</?[a-z][a-z0-9]*{_ATTRIBUTES}")
_NOTE = re.compile(r"\s*<blockquote>\s*<p>\s*<strong>\s*Possible Duplicates?:?\s*</strong>.*?</blockquote>\s*", re.S)


def html_to_text(html: str) -> str:
    r"""Return what a reader of some HTML sees: a line for each block, entities resolved.

    Example:
        >>> html_to_text("<p>Why is <b>re</b>d &lt; blue?</p><ul><li>one</li><li>two</li></ul>")
        'Why is red < blue?\none\ntwo'
    """
    text = _PLAIN_BLOCK.sub("\n", _PLAIN_INLINE.sub("", html))
    if "<" in text or any(f"<{name}" in html for name in _UNSEEN):
        seen = _Seen()
        seen.feed(html)
        seen.close()
        text = "".join(seen.pieces)
    else:
        text = unescape(text)
    return "\n".join(filter(None, map(str.strip, text.split("\n"))))


def without_duplicate_note(html: str) -> str:
    """Return the HTML of a post without the note that begins "Possible Duplicate:".

    Stack Exchange once put it there when a question was closed, with the title of the other: it gives the label away.
    """
    found = _NOTE.match(html)
    return html[found.end() :] if found else html


class _Seen(HTMLParser):
    """The text between tags, for HTML of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in _UNSEEN
        self.pieces.append("" if tag in _INLINE else "\n")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self.pieces.append("" if tag in _INLINE else "\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pieces.append("" if tag in _INLINE else "\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)
