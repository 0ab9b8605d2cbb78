from __future__ import annotations

import doctest
import time

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
    assert html_to_text(html) == "\n".join(filter(None, map(str.strip, markup._seen(html).split("\n"))))


def test_the_note_that_gives_the_label_away_goes():
    note = (
        '<blockquote>\n  <p><strong>Possible Duplicate:</strong><br>\n  <a href="x">Other</a>  </p>\n</blockquote>\n\n'
    )
    assert without_duplicate_note(note + "<p>Mine</p>") == "<p>Mine</p>"
    kept = "<p>Mine</p>" + note
    assert without_duplicate_note(kept) is kept


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a <![foo bar]]> b", "a  b"),
        ("a <!doctype html> b <?php c ?>", "a  b"),
        ("a <b c <i>d</i>", "a <b c d"),
        ("<a title=\"x < y\" b = 'q>'>here</a>", "here"),
        ("it's <a title=it's>here</a> isn't", "it's here isn't"),
        ("a <!-- <p>b", "a"),
        ("a<script>b</p></scripts></script >c", "a\nc"),
        ("a<script>b</p>", "a"),
        ("a<template><template>b</template>c</template>d", "a\nd"),
        ("a </ b", "a </ b"),
        ("a<", "a<"),
        ("&#" + "9" * 5000 + ";", "\ufffd"),
    ],
)
def test_html_that_is_broken_is_read_as_a_browser_would(html, text):
    assert html_to_text(html) == text


@given(st.text(alphabet="<>/!?-[]=\"'&#; abp\n"))
def test_no_html_is_refused(html):
    assert isinstance(html_to_text(html), str)


@pytest.mark.parametrize(
    "piece",
    [
        "<a ",
        "<",
        "</",
        "<!",
        "<!--",
        "<![",
        "<?",
        '<a b="',
        '<a b="<a b" ',
        "<script>",
        "<style ",
        "<a =  ",
        "&#9",
        "<p>",
    ],
)
def test_the_time_grows_with_the_length_only(piece):
    begun = time.process_time()
    html_to_text(piece * (300_000 // len(piece)))
    assert time.process_time() - begun < 1  # a tenth of it, as a rule
