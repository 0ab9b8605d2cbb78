from __future__ import annotations

import doctest
from datetime import date, datetime, timedelta, timezone

import pytest

from textsiam.forums import questions
from textsiam.forums.questions import QuestionIds, tag_names, text_template, utc


def test_the_examples_are_true():
    assert doctest.testmod(questions).failed == 0


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2011-08-17T20:18:56.507", "2011-08-17T20:18:56.507Z"),
        ("2011-08-17T20:18:56.507Z", "2011-08-17T20:18:56.507Z"),
        ("2011-08-17 20:18:56 UTC", "2011-08-17T20:18:56.000Z"),
        ("2011-08-17 20:18:56.5", "2011-08-17T20:18:56.500Z"),
        ("2011-08-17T20:18:56.1234567+02:00", "2011-08-17T18:18:56.123Z"),
        ("2011-08-17T22:18:56,500", "2011-08-17T22:18:56.500Z"),
        ("2011-08-17T22:18:56.50 ", "2011-08-17T22:18:56.500Z"),
        ("2011-W33-3T22:18:56.500", "2011-08-17T22:18:56.500Z"),
        ("2011-08-17", "2011-08-17T00:00:00.000Z"),
        (date(2011, 8, 17), "2011-08-17T00:00:00.000Z"),
        (datetime(2011, 8, 17, 1, tzinfo=timezone(timedelta(hours=2))), "2011-08-16T23:00:00.000Z"),
        ("2011-02-30T20:18:56.507", None),
        ("0001-01-01T00:00:00+10:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1313612336, None),
    ],
)
def test_moments_become_utc_that_sorts_as_time_does(moment, expected):
    assert utc(moment) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", "has no column 'titel', found 'title', 'body'"),
        ("{title.__class__}", "has no column 'title.__class__'"),
        ("{title!r}", "expected no more than the name of a column in braces"),
        ("{title:>10}", "expected no more than the name"),
        ("{}", "has no column ''"),
        ("title", "names no column, expected one in braces, such as {title}"),
        ("{title", "expected '}'"),
    ],
)
def test_a_template_that_means_nothing_is_refused(template, message):
    with pytest.raises(ValueError, match=r"--text ") as refused:
        text_template(template, ("title", "body"))
    assert message in str(refused.value)


def test_a_template_takes_what_is_there():
    text = text_template("{{{tags}}} {title}: {body}", ("title", "body", "tags"))
    assert text({"title": " a  b", "body": None, "tags": ["x", "y"]}) == "{x, y} a b:"


def test_ids_are_known_whatever_their_order_and_kind():
    ids = QuestionIds()
    given = ["5", "7", "6", "a", "007", "8", "-1", "9223372036854775808", "9"]
    assert all(ids.add(key) for key in given)
    assert not any(ids.add(key) for key in given)
    assert len(ids) == len(given)
    places = [ids.find(key) for key in given]
    assert len(set(places)) == len(given)
    assert [ids.name(place) for place in places] == given
    assert ids.find("10") is None
    assert ids.find("") is None


def test_tags_are_texts_or_have_a_name():
    assert tag_names("tags", [b"caf\xc3\xa9", None, {"name": "b"}, " c ", ""]) == ["café", "b", "c"]
    assert tag_names("tags", [{"slug": "b"}]) == (
        "not a text",
        "'tags' is {'slug': 'b'} (dict), expected a text",
    )
    assert tag_names("tags", [b"\xe9"]) == ("wrong encoding", "'tags' is b'\\xe9', which is not UTF-8")
