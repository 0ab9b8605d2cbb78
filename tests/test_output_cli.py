"""What commands write: texts as they are, files with their permissions, endings that say what is inside."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from textsiam import terminal
from textsiam.decision.decision import fit_decision
from textsiam.models.twin import Twin
from textsiam.saving import whole_folder
from textsiam.whole_file import whole_file

ODD = "What is :key: or :b: [bold]for[/] in\ta `-v /srv:key:ro` of docker, on [link=x] a volume that others share, too?"


@pytest.fixture(scope="session")
def model(tower, tmp_path_factory):
    scores = np.concatenate([np.linspace(0.8, 1.0, 200), np.linspace(0.0, 0.9, 200)]).astype(np.float32)
    decision = fit_decision(scores, np.repeat(np.array([1, 0], np.int8), 200))
    return Twin(tower, decision=decision).save_pretrained(tmp_path_factory.mktemp("output") / "twin")


@pytest.fixture
def odd(tmp_path):
    file = tmp_path / "odd.txt"
    file.write_text(f"{ODD}\n{ODD}\nWhy do cats purr?\n")
    return file


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def test_texts_are_printed_as_they_are(textsiam, model, odd, tmp_path, monkeypatch):
    index = tmp_path / "index"
    assert textsiam("index", "create", model, index).status == 0
    assert textsiam("index", "add", model, index, odd).status == 0
    for command in (
        ("flag", model, odd),
        ("match", model, "--queries", odd, "--documents", odd),
        ("check", model, index, ODD),
        ("index", "search", model, index, ODD),
    ):
        for columns in ("40", "400"):
            monkeypatch.setenv("COLUMNS", columns)
            said = textsiam(*command)
            assert said.status == 0, said.err
            assert said.out.count(ODD) >= 2, (command, said.out)


def test_a_table_is_not_wrapped_in_a_pipe(textsiam, model, tmp_path, monkeypatch, pairs):
    name = tmp_path / ("a[long]" * 20)
    name.symlink_to(model)
    file = tmp_path / "pairs.tsv"
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels, strict=True)
    file.write_text("question1\tquestion2\tis_duplicate\n" + "".join(f"{a}\t{b}\t{y}\n" for a, b, y in rows))
    monkeypatch.setattr(terminal, "os", SimpleNamespace(environ={}))  # no width is given
    said = textsiam("evaluate", name, file)
    assert said.status == 0, said.err
    assert str(name) in said.out


def test_errors_of_arguments_are_one_line(textsiam, model):
    for arguments, words in (
        (("score", model), "give two texts, or --pairs FILE"),
        (("score", model, "--pairs"), "--pairs"),
        (("flag", model, "x" * 300, "--column", "[few]", "--limit", "x"), "--limit"),
        (("nosuch",), "nosuch"),
    ):
        said = textsiam(*arguments)
        assert (said.status, said.out, said.err.count("\n")) == (2, "", 1), said.err
        assert said.err.startswith("error: ")
        assert words in said.err


def test_new_files_obey_the_umask_and_replaced_ones_keep_their_permissions(textsiam, model, odd, tmp_path, umask):
    outputs = [tmp_path / f"flagged{ending}" for ending in (".tsv", ".csv", ".jsonl", ".parquet")]
    for mask, expected in ((0o077, 0o600), (0o002, 0o664)):
        umask(mask)
        for output in outputs:
            output.unlink(missing_ok=True)
            assert textsiam("flag", model, odd, "--output", output).status == 0
            assert oct(mode(output)) == oct(expected)
    for output in outputs:
        output.chmod(0o640)
        assert textsiam("flag", model, odd, "--output", output).status == 0
        assert oct(mode(output)) == "0o640"


def test_a_replaced_file_is_private_while_it_is_written(tmp_path, umask):
    secret = tmp_path / "secret.tsv"
    secret.touch(0o600)
    with whole_file(secret) as aside:
        aside.write_text("new")
        assert oct(mode(aside)) == "0o600"
    assert (oct(mode(secret)), secret.read_text()) == ("0o600", "new")


def test_links_are_followed_and_devices_stay(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    real, link, dangling = tmp_path / "elsewhere" / "real.tsv", tmp_path / "link.tsv", tmp_path / "dangling.tsv"
    real.write_text("old")
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "elsewhere" / "new.tsv")
    for path in (link, dangling):
        with whole_file(path) as aside:
            aside.write_text("new")
        assert path.is_symlink()
        assert path.read_text() == "new"
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == ["new.tsv", "real.tsv"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    with whole_file(pipe) as aside:
        aside.write_text("through")
    assert reader.communicate(timeout=10)[0] == "through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_folders_obey_the_umask_and_keep_permissions(tmp_path, umask):
    def save(folder):
        with whole_folder(folder) as fresh:
            (fresh / "weights").write_bytes(b"")
            (fresh / "weights").chmod(0o600)  # as some libraries leave it
            (fresh / "card").write_text("")

    for mask, expected in ((0o077, (0o700, 0o600)), (0o002, (0o775, 0o664))):
        umask(mask)
        folder = tmp_path / oct(mask)
        save(folder)
        assert (mode(folder), mode(folder / "weights"), mode(folder / "card")) == (*expected, expected[1])
    folder.chmod(0o750)
    (folder / "card").chmod(0o640)
    save(folder)
    assert (mode(folder), mode(folder / "weights"), mode(folder / "card")) == (0o750, 0o664, 0o640)


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("score", "{model}", "--pairs", "{file}", "--output"), "scored.xlsx"),
        (("flag", "{model}", "{file}", "--output"), "flagged.txt"),
        (("match", "{model}", "--queries", "{file}", "--documents", "{file}", "--output"), "matches"),
        (("mine", "{model}", "{file}", "--output"), "mined.tsv.gz"),
        (("encode", "{model}", "{file}", "--output"), "vectors.tsv"),
        (("evaluate", "{model}", "{file}", "--report"), "report.csv"),
        (("score", "{model}", "--pairs", "{file}", "--output"), "folder.tsv"),
    ],
)
def test_an_output_is_refused_before_there_is_any_work(textsiam, monkeypatch, tmp_path, command, output):
    (tmp_path / "folder.tsv").mkdir()
    places = {"model": tmp_path / "no model", "file": tmp_path / "no file"}  # neither is looked at
    said = textsiam(*(each.format(**places) for each in command), tmp_path / output)
    assert said.status == 1
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"{output}: cannot" in said.err


@pytest.mark.parametrize(
    "command",
    [
        ("score", "{model}", "--pairs", "{file}", "--output", "{again}"),
        ("flag", "{model}", "{file}", "--threshold", "0.5", "--output", "{again}"),
        ("match", "{model}", "--queries", "{model}", "--documents", "{file}", "--output", "{again}"),
        ("mine", "{model}", "{file}", "--output", "{again}"),
    ],
)
def test_an_input_is_never_overwritten(textsiam, tmp_path, command):
    file = tmp_path / "file.tsv"
    file.write_text("question1\tquestion2\tis_duplicate\nWhy so?\tWhy?\t1\n")
    (tmp_path / "again.tsv").symlink_to(file)
    places = {"model": tmp_path / "no model", "file": file, "again": tmp_path / "again.tsv"}
    said = textsiam(*(each.format(**places) for each in command))
    assert said.status == 2
    assert "again.tsv is read and would be overwritten" in said.err
    assert file.read_text().endswith("Why so?\tWhy?\t1\n")


def test_a_twin_is_not_written_over_what_is_beside_another(textsiam, model, tmp_path):
    shutil.copytree(model, tmp_path / "twin")
    (tmp_path / "twin" / "labels.tsv").write_text("answers")
    said = textsiam("calibrate", model, "sample:forum", "--output", tmp_path / "twin")
    assert said.status == 2
    assert "holds 'labels.tsv', which would be lost" in said.err
    assert (tmp_path / "twin" / "labels.tsv").read_text() == "answers"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed_is_not_missed(closed):
    script = f"'{sys.executable}' -m textsiam.cli data report sample:forum {closed}; echo $?"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert said.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in said.stderr


def test_endings_in_capitals_are_written_as_they_are_read(textsiam, model, odd, tmp_path):
    pairs = tmp_path / "PAIRS.TSV"
    pairs.write_text("question1\tquestion2\na cat\ta dog\n")
    for ending in (".TSV", ".Csv", ".JSONL", ".Parquet"):
        scored = tmp_path / f"scored{ending}"
        assert textsiam("score", model, "--pairs", pairs, "--output", scored).status == 0
        assert len(textsiam("score", model, "--pairs", scored, "--json").json) == 1
    assert textsiam("encode", model, odd, "--output", tmp_path / "V.NPY").status == 0
    assert len(np.load(tmp_path / "V.NPY")) == 3


def test_json_beside_an_output_is_the_same_as_without(textsiam, model, odd, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("question1\tquestion2\na cat\ta dog\na cat\ta bird\n")
    for command in (("score", model, "--pairs", pairs), ("match", model, "--queries", odd, "--documents", odd)):
        beside = textsiam(*command, "--json", "--output", tmp_path / "out.tsv").json
        assert beside == textsiam(*command, "--json").json
        assert (tmp_path / "out.tsv").read_text().count("\n") == len(beside) + 1


MUCH = """
import sys
from textsiam import cli

@cli.app.command()
def much():
    for _ in range(5000):
        print("x" * 100)
        print("y" * 100, file=sys.stderr)

cli.main()
"""


@pytest.mark.parametrize(
    ("arguments", "into"),
    [("much", "2>/dev/null | head -1"), ("much", "2>&1 | head -1"), ("--help", "| true")],
)
def test_a_reader_that_has_seen_enough_is_no_failure(arguments, into):
    script = f"'{sys.executable}' -c '{MUCH}' {arguments} {into} > /dev/null; echo ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() in ("0", "141"), said
    assert said.stderr == ""


def test_a_full_disk_is_one_error():
    script = f"'{sys.executable}' -c '{MUCH}' much 2>/dev/null > /dev/full; '{sys.executable}' -c '{MUCH}' --version"
    said = subprocess.run(["bash", "-c", f"{script} > /dev/full"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 1
    assert said.stderr == "error: [Errno 28] No space left on device\n"


def test_thousands_of_equal_questions_cost_what_they_are(textsiam, model, tmp_path):
    file, output = tmp_path / "q.tsv", tmp_path / "flagged.tsv"
    rows = [f"{i}\t[deleted]" for i in range(20_000)] + ["a\tWhy do cats purr?", "b\tWhy do cats purr?"]
    file.write_text("id\ttext\n" + "\n".join(rows) + "\n")
    said = textsiam("flag", model, file, "--threshold", "0.99", "--output", output)
    assert said.status == 0, said.err
    assert output.read_text().count("\n") == 1 + 19_999 + 1
    assert said.out.count("\n") < 15
    assert said.out.count("[deleted]") == 6
    assert "19,995 more like it" in said.out
    assert "20,000 questions are copies" in said.err
    found = textsiam("flag", model, file, "--threshold", "0.99", "--json").json
    assert (found["exact_copies"], len(found["pairs"])) == (20_000, 20_000)
    assert [len(cluster) for cluster in found["clusters"]] == [20_000, 2]
