from __future__ import annotations

import gzip

import pytest

from textsiam.data.tables.errors import DataError
from textsiam.forums import xml_rows as module
from textsiam.forums.xml_rows import xml_rows

HEAD = '<?xml version="1.0" encoding="{}"?>\n<posts>\n'
ROW = '<row Id="1" Title="é &lt;b&gt; &amp;amp; &#xA;"/>\n'


def rows_of(path):
    return list(xml_rows(path, "posts"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "iso-8859-1", "windows-1252"])
def test_the_encoding_is_that_of_the_mark_or_the_declaration(tmp_path, encoding):
    path = tmp_path / "Posts.xml"
    path.write_bytes(
        (HEAD.format(encoding.removesuffix("-sig").removesuffix("-le")) + ROW + "</posts>").encode(encoding)
    )
    if encoding == "utf-16-le":  # without a mark, expat goes by the first "<"
        assert rows_of(path)
    assert rows_of(path) == [(3, {"Id": "1", "Title": "é <b> &amp; \n"})]


def test_gzip_and_other_layouts_are_read(tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(gzip.compress(b"<posts><row Id='1'/><row\nId='2'></row></posts>"))
    read = []
    assert [row["Id"] for _, row in xml_rows(path, "posts", read=read.append)] == ["1", "2"]
    assert sum(read) == 46


@pytest.mark.parametrize("piece", [3, 1 << 18])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<posts>\n<row Id='1'/>\n<row Id='2' Ti",
            r"Posts.xml:3: ends in the middle \(byte 36\): the dump is truncated",
        ),
        ("<posts>\n<row Id='1'/>\n", r"Posts.xml:3: ends in the middle \(byte 22\): the dump is truncated"),
        ("", r"Posts.xml:1: ends in the middle \(byte 0\)"),
        ("<posts>\n<row Id=1/>", r"Posts.xml:2: is not well-formed XML: .* \(column 9, byte 16\)"),
        (
            "<posts><row T='&#0;'/></posts>",
            r"Posts.xml:1: is not well-formed XML: reference to invalid character number",
        ),
        ("<posts><row T='&lol;'/></posts>", r"Posts.xml:1: is not well-formed XML: undefined entity"),
        ("<posts><row/></posts><row/>", r"Posts.xml:1: is not well-formed XML: junk after document element"),
        ("<users>\n<row/></users>", r"Posts.xml:1: holds <users>, expected <row> inside <posts>"),
        ("<posts>\n<post/></posts>", r"Posts.xml:2: holds <post>, expected <row> inside <posts>"),
        (
            "<?xml version='1.0' encoding='shift_jis'?><posts/>",
            "is in an encoding that cannot be read .*convert it to UTF-8",
        ),
        ("<?xml version='1.0' encoding='klingon'?><posts/>", "klingon|unknown encoding"),
    ],
)
def test_damage_is_named_by_line_and_byte(tmp_path, monkeypatch, content, message, piece):
    monkeypatch.setattr(module, "_CHUNK", piece)
    path = tmp_path / "Posts.xml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        rows_of(path)


def test_bytes_of_another_encoding_are_named_by_position(tmp_path):
    path = tmp_path / "Posts.xml"
    path.write_bytes(b"<posts>\n<row T='caf\xe9 '/></posts>")
    with pytest.raises(
        DataError, match=r"Posts.xml:2: is not well-formed XML: .*invalid token.* \(column 12, byte 19\)"
    ):
        rows_of(path)


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/hostname">',
        '<!ENTITY % a SYSTEM "http://localhost/a.dtd"> %a;',
    ],
)
def test_entities_are_refused_before_they_grow_or_fetch(tmp_path, declared):
    path = tmp_path / "Posts.xml"
    path.write_text(
        f"<?xml version='1.0'?>\n<!DOCTYPE posts [{declared}]>\n<posts><row T='&a;'/></posts>", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"Posts.xml:2: declares the entity 'a' \(byte \d+\).*: refused"):
        rows_of(path)


def test_a_row_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_ROW", 1 << 20)
    path = tmp_path / "Posts.xml"
    path.write_text("<posts>\n<row Body='" + "x" * (2 << 20) + "'/></posts>", encoding="utf-8")
    with pytest.raises(DataError, match=r"Posts.xml:2: a row is longer than 1,048,576 bytes"):
        rows_of(path)


def test_a_missing_file_and_a_truncated_gzip_are_named(tmp_path):
    with pytest.raises(DataError, match=r"Posts.xml: cannot be read after byte 0"):
        rows_of(tmp_path / "Posts.xml")
    packed = gzip.compress((HEAD.format("utf-8") + ROW * 1000 + "</posts>").encode())
    (tmp_path / "Posts.xml").write_bytes(packed[:-20])
    with pytest.raises(DataError, match=r"Posts.xml: cannot be read after byte"):
        rows_of(tmp_path / "Posts.xml")


@pytest.mark.parametrize("kind", ['posts SYSTEM "x.dtd"', "posts", "posts [<!ATTLIST row Id CDATA '7'>]"])
def test_a_document_type_is_refused_as_it_could_hide_entities(tmp_path, kind):
    path = tmp_path / "Posts.xml"
    path.write_text(
        f"<?xml version='1.0'?>\n<!DOCTYPE {kind}>\n<posts><row T='caf&eacute;'/></posts>", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"Posts.xml:2: has a document type, <!DOCTYPE> \(byte \d+\).*: refused"):
        rows_of(path)
