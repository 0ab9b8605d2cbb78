from __future__ import annotations

from xml.sax.saxutils import quoteattr

import pytest


def _xml(root, rows, encoding="utf-8"):
    lines = ["  <row " + " ".join(f"{name}={quoteattr(value)}" for name, value in row.items()) + " />" for row in rows]
    return "\n".join([f'<?xml version="1.0" encoding="{encoding}"?>', f"<{root}>", *lines, f"</{root}>", ""])


def _post(key, title, body="", **more):
    row = {"Id": str(key), "PostTypeId": "1", "CreationDate": "2011-08-17T20:18:56.507", "Score": "3"}
    return row | {"Title": title, "Body": body, "Tags": "<scope><style>"} | more


def _link(source, target, kind):
    return {"Id": "9", "PostId": str(source), "RelatedPostId": str(target), "LinkTypeId": str(kind)}


@pytest.fixture
def post():
    """Make the attributes of a question."""
    return _post


@pytest.fixture
def link():
    """Make the attributes of a link."""
    return _link


@pytest.fixture
def dump(tmp_path):
    """Write a dump; returns its folder."""

    def write(posts, links=(), encoding="utf-8"):
        folder = tmp_path / "dump"
        folder.mkdir(exist_ok=True)
        (folder / "Posts.xml").write_bytes(_xml("posts", posts, encoding).encode(encoding))
        (folder / "PostLinks.xml").write_bytes(_xml("postlinks", links, encoding).encode(encoding))
        return folder

    return write
