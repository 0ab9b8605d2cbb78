from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsiam.forums import markup
from textsiam.forums.markup import html_to_text, without_duplicate_note


def test_the_example_is_true():
    assert doctest.testmod(markup).failed == 0


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a</p><p>b</p>", "a\nb"),
        ("un<b>der</b><em>way</em>", "underway"),
        ("a<br>b<br />c<hr/>d", "a\nb\nc\nd"),
        ("<pre><code>if a &lt; b &amp;&amp; c:\n    go()</code></pre>", "if a < b && c:\ngo()"),
        ("&amp;lt;b&amp;gt; stays", "&lt;b&gt; stays"),
        ('<a href="https://a.b/?c=d&amp;e" title="x &gt; y">here</a>', "here"),
        ('<a title="x > y">here</a>', "here"),
        ("<A HREF='x'>here</A>", "here"),
        ("a <!-- <b>no</b> --> b", "a  b"),
        ("<p>x</p><script>alert('<b>')</script><style>p {}</style>y", "x\ny"),
        ("1 < 2", "1 < 2"),
        ("caf&eacute; &#233; &#xe9; &nbsp;", "café é é"),
        ("", ""),
    ],
)
def test_html_becomes_what_is_seen(html, text):
    assert html_to_text(html) == text


_PIECES = st.sampled_from(
    [
        "<p>",
        "</p>",
        "<b>",
        "</b>",
        "<br />",
        '<a href="x">',
        "</a>",
        "<li>",
        "a",
        " ",
        "\n",
        "é",
        "&lt;",
        "&amp;",
        "&#39;",
    ]
)


@given(st.lists(_PIECES).map("".join))
def test_the_quick_way_gives_what_the_parser_gives(html):
    seen = markup._Seen()
    seen.feed(html)
    seen.close()
    assert html_to_text(html) == "\n".join(filter(None, map(str.strip, "".join(seen.pieces).split("\n"))))


def test_the_note_that_gives_the_label_away_goes():
    note = (
        '<blockquote>\n  <p><strong>Possible Duplicate:</strong><br>\n  <a href="x">Other</a>  </p>\n</blockquote>\n\n'
    )
    assert without_duplicate_note(note + "<p>Mine</p>") == "<p>Mine</p>"
    kept = "<p>Mine</p>" + note
    assert without_duplicate_note(kept) is kept
