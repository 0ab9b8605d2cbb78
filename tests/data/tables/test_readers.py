"""Every way a file can be broken, with the message it must give."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textsiam.data.pairs import DataError, read_pairs

HEADER = "question1\tquestion2\tis_duplicate\n"


def message(path, **options):
    with pytest.raises(DataError) as caught:
        read_pairs(path, **options)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def rows(pairs):
    return list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))


EXPECTED = [("Who am I?", "What am I?", 1), ("Where, oh where?", 'He said "no"', 0)]
RECORDS = [{"question1": a, "question2": b, "is_duplicate": y} for a, b, y in EXPECTED]
CONTENT = {
    "pairs.tsv": HEADER + 'Who am I?\tWhat am I?\t1\nWhere, oh where?\t"He said ""no"""\t0\n',
    "pairs.csv": "question1,question2,is_duplicate\r\nWho am I?,What am I?,1\r\n"
    '"Where, oh where?","He said ""no""",0\r\n',
    "pairs.jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS),
    "pairs.json": "".join(json.dumps(record) + "\n\n" for record in RECORDS),
    "semicolon.csv": 'question1;question2;is_duplicate\nWho am I?;What am I?;1\nWhere, oh where?;"He said ""no""";0\n',
    "tabs.csv": HEADER + 'Who am I?\tWhat am I?\t1\nWhere, oh where?\t"He said ""no"""\t0\n',
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", CONTENT)
def test_text_formats_agree(write, name, suffix):
    pairs = read_pairs(write(name + suffix, CONTENT[name]))
    assert rows(pairs) == EXPECTED
    assert pairs.report.rows == pairs.report.kept == 2


def test_content_tells_gzip_not_the_name(write):
    plain = write("plain.tsv", gzip.compress(CONTENT["pairs.tsv"].encode()))
    assert rows(read_pairs(plain)) == EXPECTED


@pytest.mark.parametrize("packed", [False, True])
def test_parquet(tmp_path, packed):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": 7, **record} for record in RECORDS]), path)
    if packed:
        path = tmp_path / "pairs.parquet.gz"
        path.write_bytes(gzip.compress((tmp_path / "pairs.parquet").read_bytes()))
    assert rows(read_pairs(path)) == EXPECTED


def test_parquet_problems(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "pairs.parquet"
    table = {"question1": ["a", None], "question2": ["b", "c"], "is_duplicate": [1.0, 0.0]}
    pq.write_table(pa.table(table), path)
    assert message(path) == f"{path}:row 2: 'question1' is missing, expected a text"
    pq.write_table(pa.table({"question1": ["a"], "question2": ["b"], "is_duplicate": [0.5]}), path)
    assert message(path) == f"{path}:row 1: 'is_duplicate' is 0.5, expected 0 or 1"
    pq.write_table(pa.table({"question1": [3], "question2": ["b"], "is_duplicate": [1]}), path)
    assert message(path) == f"{path}:row 1: 'question1' is 3 (int), expected a text"
    path.write_bytes(path.read_bytes()[:-20])
    assert message(path).startswith(f"{path}: is not a Parquet file or is damaged (")


def test_several_lines_in_a_field_count_as_lines(write):
    path = write("pairs.tsv", HEADER + '"one\ntwo"\t"three\r\nfour"\t1\nWho?\tWhat?\tmaybe\n')
    assert message(path) == f"{path}:5: 'is_duplicate' is 'maybe', expected 0 or 1"
    pairs = read_pairs(path, on_bad_row="skip")
    assert rows(pairs) == [("one\ntwo", "three\r\nfour", 1)]


def test_byte_order_mark(write):
    path = write("pairs.tsv", b"\xef\xbb\xbf" + (HEADER + "a\tb\t1\n").encode())
    assert rows(read_pairs(path)) == [("a", "b", 1)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(write, encoding):
    path = write("pairs.tsv", (HEADER + "a\tb\t1\n").encode(encoding))
    assert message(path) == f"{path}: is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8"


@pytest.mark.parametrize(("start", "what"), [
    (b"PK\x03\x04", "an Excel workbook"), (b"\xfd7zXZ\0", "packed with xz"), (b"BZh91AY&SY", "packed with bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "a .7z archive"), (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    (b"a.tsv" + bytes(252) + b"ustar", "a .tar archive"),
])  # fmt: skip
def test_what_is_packed_is_named_and_not_taken_for_latin1(write, start, what):
    for name in ("pairs.tsv", "pairs.csv.gz"):
        path = write(name, start + bytes(range(256)))
        assert re.search(f"{name}: is .*{re.escape(what)}.*expected a text file", message(path))


def test_a_file_that_is_packed_twice_is_said_to_be(write):
    path = write("pairs.tsv.gz", gzip.compress(HEADER.encode()))
    assert message(path) == f"{path}: is packed with gzip twice (unpack it once), expected a text file"


def test_a_link_to_nothing_is_said_to_be_one(tmp_path):
    link, loop = tmp_path / "link.tsv", tmp_path / "loop.tsv"
    link.symlink_to(tmp_path / "gone.tsv")
    loop.symlink_to(loop)
    assert message(link) == f"{link}: is a link to {tmp_path}/gone.tsv, where no file is"
    assert message(loop) == f"{loop}: is a link to {loop}, where no file is"


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_wrong_encoding(write, bom):
    start = bom + (HEADER + "a\tb\t1\n" + "caf").encode()
    path = write("pairs.tsv", start + b"\xe9\tcoffee\t1\nc\td\t0\n")
    assert message(path) == (
        f"{path}:3: byte {len(start)} (0xe9) is not UTF-8; convert the file, for example: iconv -f latin1 -t utf-8"
    )
    pairs = read_pairs(path, on_bad_row="skip")
    assert rows(pairs) == [("a", "b", 1), ("c", "d", 0)]
    assert pairs.report.skipped == {"wrong encoding": 1}


def test_wrong_encoding_in_header(write):
    path = write("pairs.tsv", b"question1\tquestion2\tis_duplicat\xe9\na\tb\t1\n")
    assert message(path).startswith(f"{path}:1: byte 31 (0xe9) is not UTF-8")


def test_wrong_encoding_is_remembered_when_lines_are_read_again(write):
    path = write("pairs.tsv", HEADER.encode() + b'"open\tb\t1\ncaf\xe9\tcoffee\t1\nc\td\t0\n')
    pairs = read_pairs(path, on_bad_row="skip")
    assert rows(pairs) == [("c", "d", 0)]
    assert pairs.report.skipped == {"unbalanced quoting": 1, "wrong encoding": 1}
    assert f"skipped {path}:3: byte" in pairs.report.warnings[1]


QUOTED = "; if '\"' is an ordinary character here, pass --no-quoted (quoted=False)"
SEVERAL = "; if it closes a field of several lines, --quoted"
UNBALANCED = {
    "to the end": (
        'a\tb\t1\n"open\tc\t1\nd\te\t0\nf\tg\t1\n',
        "unbalanced quoting: a quote opens and the file ends before it closes",
    ),
    "text after": (
        'a\tb\t1\n"open\tc\t1\nd\tsay "e" now\t0\nf\tg\t1\n',
        "unbalanced quoting: text follows a closing quote",
    ),
    "closed by a stray quote": (
        'a\tb\t1\n"open\tc\t1\nd"\te\t0\nd\te\t0\nf\tg\t1\n',
        "unbalanced quoting: the quote that opens here is closed by a stray one on line 4",
    ),
    "closed in another column": (
        'a\tb\t1\n"open\tc\t1\nx\td"\t0\nd\te\t0\nf\tg\t1\n',
        "unbalanced quoting: the row has 2 fields down to line 4, the header has 3",
    ),
}


@pytest.mark.parametrize("case", UNBALANCED)
@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_unbalanced_quoting_names_the_line_where_the_record_starts(write, case, delimiter):
    content, problem = UNBALANCED[case]
    path = write("pairs.tsv", (HEADER + content).replace("\t", delimiter))
    assert message(path) == f"{path}:3: {problem}{QUOTED}{SEVERAL if 'stray one' in problem else ''}"


@pytest.mark.parametrize("case", UNBALANCED)
@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_a_skipped_open_quote_costs_its_own_row_only(write, case, delimiter):
    path = write("pairs.tsv", (HEADER + UNBALANCED[case][0]).replace("\t", delimiter))
    pairs = read_pairs(path, on_bad_row="skip")
    found = rows(pairs)
    assert (found[0], found[-1]) == (("a", "b", 1), ("f", "g", 1))
    assert any(row[0] == "d" for row in found)
    assert pairs.report.skipped == {"unbalanced quoting": 1}


def test_an_open_quote_does_not_read_the_whole_file(write):
    path = write("pairs.tsv", HEADER + '"open\tb\t1\n' + "".join(f"l{i}\tr{i}\t0\n" for i in range(20_000)))
    assert message(path).startswith(f"{path}:2: unbalanced quoting: a quote opens and 131,072 characters do not")
    assert len(read_pairs(path, on_bad_row="skip")) == 20_000


def test_quotes_as_ordinary_characters(write):
    path = write("pairs.tsv", HEADER + '"open\tb\t1\n"c" d\te"\t0\n')
    assert rows(read_pairs(path, quoted=False)) == [('"open', "b", 1), ('"c" d', 'e"', 0)]


def test_angle_bracket_header_is_unquoted(write):
    path = write("forum.csv", '<question1>\t<question2>\t<labels>\t<id>\n"a" b\t"c\t1\tX\nd\te\t0\tY\n')
    assert rows(read_pairs(path)) == [('"a" b', '"c', 1), ("d", "e", 0)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", ": is empty"),
        (b"\xef\xbb\xbf", ": is empty"),
        ("\n", ":1: is blank, expected a header"),
        (HEADER, ": has a header but no rows"),
        (HEADER + "\n\n", ": has a header but no rows"),
        (HEADER + "a\tb\n", ":2: has 2 fields, the header has 3"),
        (HEADER + "a\tb\t1\td\n", ":2: has 4 fields, the header has 3"),
        (HEADER + " \t\n", ":2: has 2 fields, the header has 3"),
        (HEADER + "\tb\t1\n", ":2: 'question1' is empty, expected a text"),
        (HEADER + "a\t \u00a0\u3000\t1\n", ":2: 'question2' is empty, expected a text"),
        (HEADER + "a\rb\tc\t1\n", ":2: a carriage return inside an unquoted field"),
        (
            HEADER.replace("\n", "\r") + "a\tb\t1\r",
            ": lines end in a bare carriage return, expected a line feed",
        ),
        ("question1\tquestion1\tlabel\na\tb\t1\n", ": column 'question1' appears 2 times"),
    ],
)
def test_broken_tsv(write, content, problem):
    path = write("pairs.tsv", content)
    assert message(path) == f"{path}{problem}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"question1": "a"', ":1: is not JSON (Expecting ',' delimiter: line 1 column 18 (char 17))"),
        ("[1]\n", ": is a JSON array, expected one object a line (JSONL)"),
        (
            '{"question1": "a", "question2": "b", "is_duplicate": 1}\n[1]\n',
            ":2: is a JSON list, expected an object",
        ),
        ("\n", ": holds no JSON object"),
        (
            '{"question1": "a", "question2": "b", "is_duplicate": 1}\n{"question1": "a", "is_duplicate": 1}',
            ":2: 'question2' is missing, expected a text",
        ),
        (
            '{"question1": "a", "question2": ["b"], "is_duplicate": 1}',
            ":1: 'question2' is ['b'] (list), expected a text",
        ),
        (
            '{"question1": "a", "question2": "b", "is_duplicate": [1]}',
            ":1: 'is_duplicate' is [1], expected 0 or 1",
        ),
        (
            '{"question1": "a \\ud83d", "question2": "b", "is_duplicate": 1}',
            ":1: holds half of a surrogate pair ('\\ud83d')",
        ),
    ],
)
def test_broken_jsonl(write, content, problem):
    path = write("pairs.jsonl", content)
    assert message(path) == f"{path}{problem}"


def test_surrogate_pairs_and_escaped_backslashes_are_fine(write):
    lines = [{"question1": "\U0001f600", "question2": "C:\\udir", "is_duplicate": True}]
    path = write("pairs.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert rows(read_pairs(path)) == [("\U0001f600", "C:\\udir", 1)]


def test_truncated_gz(write):
    path = write("pairs.tsv.gz", HEADER + "".join(f"left {i}\tright {i}\t0\n" for i in range(5000)))
    path.write_bytes(path.read_bytes()[:-400])
    text = message(path, on_bad_row="skip")
    assert text.startswith(f"{path}: the .gz is truncated or damaged after line ")
    assert 0 < int(text.split("after line ")[1].split()[0]) <= 5001


def test_damaged_gz(write):
    path = write("pairs.tsv.gz", HEADER + "".join(f"left {i}\tright {i}\t0\n" for i in range(5000)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(data))
    assert message(path, on_bad_row="skip").startswith(f"{path}: the .gz is truncated or damaged after line ")


def test_no_such_file(write, tmp_path):
    write("pairs.tsv", HEADER)
    assert message(tmp_path / "pears.tsv") == f"{tmp_path}/pears.tsv: no such file; close names there: pairs.tsv"
    assert message("/no/such/folder/pairs") == "/no/such/folder/pairs: no such file"


def test_a_name_without_an_owner_is_no_dataset_of_the_hub(write, tmp_path, monkeypatch):
    write("pairs", HEADER)
    monkeypatch.chdir(tmp_path)

    def load(*_, **__):
        raise AssertionError("the Hub was asked")

    assert message("pears", load=load) == "pears: no such file; close names there: pairs"
    assert message("zzz", load=load) == "zzz: no such file"


def test_directory(tmp_path, write):
    assert message(tmp_path) == f"{tmp_path}: is a directory, expected a file; it holds nothing"
    for name in "abcdefg":
        write(f"{name}.tsv", "x")
    held = "a.tsv, b.tsv, c.tsv, d.tsv, e.tsv, …"
    assert message(tmp_path) == f"{tmp_path}: is a directory, expected a file; it holds {held}"


def test_unknown_extension(write):
    known = ".tsv, .csv, .jsonl, .json, .parquet, .txt"
    path = write("pairs.xlsx", "x")
    assert message(path) == f"{path}: unknown extension '.xlsx', expected {known}, each also with .gz"
    path = write("pairs.txt", "a\n")
    assert message(path).startswith(f"{path}: cannot tell which column holds the texts of a pair: found 'text'; ")


def test_unreadable_file(write):
    path = write("pairs.tsv", HEADER)
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        assert "cannot be read" in message(path)
    else:
        pytest.skip("this user may read everything")


def test_on_bad_row_must_be_known(write):
    with pytest.raises(ValueError, match="on_bad_row must be 'error' or 'skip', got 'ignore'"):
        read_pairs(write("pairs.tsv", HEADER), on_bad_row="ignore")  # pyright: ignore[reportArgumentType]


@given(st.text('ab"\t,\n\r01 \\', max_size=60), st.sampled_from(["tsv", "csv"]), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_read_or_refused_and_counted(tmp_path, content, extension, quoted):
    path = tmp_path / f"any.{extension}"
    path.write_bytes((HEADER + content).encode())
    try:
        report = read_pairs(path, on_bad_row="skip", quoted=quoted).report
    except DataError as error:
        problem = str(error)
    else:
        left_out = sum(report.skipped.values()) + report.duplicate_rows + report.contradictory
        assert report.rows == report.kept + left_out <= content.count("\n") + 1
        return
    assert problem.startswith(f"{path}: ")


class TestHub:
    @staticmethod
    def loader(dataset, calls):
        def load(name, config, *, split):
            calls.append((name, config, split))
            return dataset

        return load

    def test_a_revision_stands_behind_the_name(self):
        from datasets import Dataset

        asked = []

        def load(name, config, **how):
            asked.append((name, config, how))
            return Dataset.from_list(RECORDS)

        assert rows(read_pairs("owner/questions@refs/pr/1:small", load=load)) == EXPECTED
        read_pairs("owner/questions@v1.0", split="dev", load=load)
        assert asked == [
            ("owner/questions", "small", {"split": "train", "revision": "refs/pr/1"}),
            ("owner/questions", None, {"split": "dev", "revision": "v1.0"}),
        ]

    def test_rows_come_from_load_dataset(self):
        from datasets import Dataset

        calls = []
        load = self.loader(Dataset.from_list(RECORDS), calls)
        pairs = read_pairs("owner/questions:small", split="validation", load=load)
        assert rows(pairs) == EXPECTED
        assert pairs.source == "owner/questions:small"
        read_pairs("glue:qqp", load=load)
        assert calls == [
            ("owner/questions", "small", "validation"),
            ("glue", "qqp", "train"),
        ]

    def test_a_builder_of_datasets(self, tmp_path):
        from datasets import load_dataset

        (tmp_path / "part.jsonl").write_text(CONTENT["pairs.jsonl"])

        def load(name, config, *, split):
            files = {"train": str(tmp_path / "part.jsonl")}
            return load_dataset("json", data_files=files, split=split, cache_dir=str(tmp_path / "cache"))

        assert rows(read_pairs("owner/questions", load=load)) == EXPECTED
        with pytest.raises(DataError, match=r"owner/questions: no such file; as a Hub dataset, split 'dev': .*dev"):
            read_pairs("owner/questions", split="dev", load=load)

    def test_class_names_decide(self):
        from datasets import ClassLabel, Dataset, Features, Value

        def dataset(names, labels):
            text = Value("string")
            features = Features(question1=text, question2=text, label=ClassLabel(names=names))
            texts = [f"text {i}" for i in range(len(labels))]
            return Dataset.from_dict({"question1": texts, "question2": ["b"] * len(labels), "label": labels}, features)

        glue = self.loader(dataset(["not_duplicate", "duplicate"], [1, 0]), [])
        assert read_pairs("glue:qqp", load=glue).labels.tolist() == [1, 0]
        reversed_ = self.loader(dataset(["duplicate", "not_duplicate"], [1, 0]), [])
        assert read_pairs("owner/other", load=reversed_).labels.tolist() == [0, 1]
        nli = self.loader(dataset(["duplicate", "neutral", "not_duplicate"], [0, 1]), [])
        assert message("owner/nli", load=nli) == (
            "owner/nli:row 2: 'label' is 1 ('neutral'), expected 'duplicate' or 'not_duplicate'"
        )

    def test_glue_test_split(self):
        from datasets import Dataset

        unlabelled = Dataset.from_dict({"question1": ["a"], "question2": ["b"], "label": [-1]})
        load = self.loader(unlabelled, [])
        assert message("glue:qqp", split="test", load=load) == (
            "glue:qqp:row 1: 'label' is -1: a row without a label, as in GLUE's test split; read it with labelled=False"
        )
        assert read_pairs("glue:qqp", labelled=False, load=load).labels.tolist() == [-1]

    def test_attempts_to_reach_the_hub_are_not_told(self, caplog):
        log = logging.getLogger("huggingface_hub.utils._http")

        def load(name, config, *, split):
            log.warning("Retrying in 1s [Retry 1/5].")
            raise ConnectionError("Couldn't reach the Hub")

        assert message("owner/questions", load=load).endswith("split 'train': Couldn't reach the Hub")
        assert not caplog.records
        log.warning("as before")
        assert len(caplog.records) == 1

    def test_not_found(self):
        def load(name, config, *, split):
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nand more")

        assert message("owner/nothing", load=load) == (
            "owner/nothing: no such file; as a Hub dataset, split 'train': "
            "Dataset 'owner/nothing' doesn't exist on the Hub"
        )
