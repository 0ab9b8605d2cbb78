"""How the command line behaves, whatever the command: one meaning a name, examples, completion, plain text in pipes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
from typer.main import get_command

import textsiam as package
from textsiam import cli, terminal


def leaf_commands(command, name=""):
    for word, below in getattr(command, "commands", {}).items():
        yield from leaf_commands(below, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, command


COMMANDS = dict(leaf_commands(get_command(cli.app)))
# Options of one name that take another kind of value in some commands, and why.
DIFFERENT = {
    "--column",  # a column of texts, or roles of several columns
    "--pairs",  # of a table, or labelled ones to judge by
    "--precision",  # of flagged pairs, or of numbers
}
# Other words for what has a name already.
SYNONYMS = {
    "--address": "--host",
    "--base-rate": "--prior",
    "--cutoff": "--threshold",
    "--force": "--overwrite",
    "--id": "--id-column",
    "--k": "--top-k",
    "--max": "--limit",
    "--min-similarity": "--threshold",
    "--number": "--limit",
    "--out": "--output",
    "--random-seed": "--seed",
    "--skip-bad": "--on-bad-row",
    "--target-precision": "--precision",
    "--text-column": "--column",
    "--top": "--top-k",
}


def options_of(command):
    return [one for one in command.params if one.opts[0].startswith("-") and "--help" not in one.opts]


def test_an_option_is_of_one_kind_wherever_it_is():
    kinds: dict[str, set[object]] = {}
    for command in COMMANDS.values():
        for option in options_of(command):
            choices = str(getattr(option.type_descriptor, "choices", None))
            kind = choices, option.is_flag, option.multiple, tuple(option.secondary_opts)
            kinds.setdefault(option.opts[0], set()).add(kind)
    assert {name for name, found in kinds.items() if len(found) > 1} == DIFFERENT


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_named_as_elsewhere(name):
    spellings = [word for option in options_of(COMMANDS[name]) for word in (*option.opts, *option.secondary_opts)]
    assert "--json" in spellings
    assert [word for word in spellings if not re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*", word)] == []
    assert [f"{word}: {SYNONYMS[word]}" for word in spellings if word in SYNONYMS] == []
    assert all(option.help for option in options_of(COMMANDS[name]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    words = shlex.split(COMMANDS[name].epilog.removeprefix("Example: "))
    assert words[: len(name.split()) + 1] == ["textsiam", *name.split()]
    given = words[len(name.split()) + 1 :]
    known = {word for option in options_of(COMMANDS[name]) for word in (*option.opts, *option.secondary_opts)}
    if name != "train":
        assert {word for word in given if word.startswith("--")} <= known
    COMMANDS[name].make_context(name, given)


def test_help_is_in_sections(textsiam):
    said = textsiam("--help").out
    assert all(section in said for section in cli._SECTIONS)
    assert "Commands ─" not in said  # none stands outside of them
    assert "Example: textsiam index add MODEL index questions.tsv" in textsiam("index", "add", "--help").out


def test_versions(textsiam):
    assert textsiam("--version").out == f"{package.__version__}\n"
    assert {"python", "textsiam", "torch"} <= textsiam("--version", "--json").json.keys()
    refused = textsiam("--json", "doctor")
    assert refused.status == 2
    assert "--json stands behind the command: doctor --json" in refused.err


@pytest.mark.parametrize(("typed", "offered"), [("textsiam fl", "flag"), ("textsiam index mig", "migrate")])
def test_shells_complete_commands(typed, offered):
    asked = {"_TEXTSIAM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    run = "import sys; sys.argv = ['textsiam']; from textsiam.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run], env={**os.environ, **asked}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == [offered], done.stderr


def test_no_colours_in_pipes_nor_where_nobody_wants_them(textsiam, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in textsiam("flag", "--help").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert terminal.bold("a") == "\x1b[1ma\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.bold("a") == terminal.dim("a") == "a"
    console = terminal.make_console()
    assert console.no_color


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flag", "MODEL", "a.tsv"], "interrupted: with --work FOLDER the same command goes on where it was stopped\n"),
        (
            ["index", "add", "MODEL", "index", "a.tsv"],
            "interrupted: what was added is kept; the same command adds the rest\n",
        ),
        (["index", "compact", "index"], "interrupted: the index is whole; the same command goes on\n"),
        (["score", "MODEL"], "interrupted: nothing was written; the same command begins again\n"),
    ],
)
def test_what_was_stopped_says_how_it_goes_on(words, said, monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["textsiam", *words])
    monkeypatch.setattr(cli, "_command", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main(stopped)
    assert (ended.value.code, capsys.readouterr().err) == (130, f"\n{said}")


def test_what_goes_on_is_a_command():
    assert cli._KEPT.keys() <= COMMANDS.keys() | cli._GROUPS.keys()


@pytest.mark.parametrize("command", ["encode", "match", "mine"])
def test_what_was_stopped_while_it_encodes_has_written_nothing(command, textsiam, tower, tmp_path, monkeypatch):
    from textsiam.models.twin import Twin

    def stopped(*_, **__):
        yield from ()
        raise KeyboardInterrupt

    model, texts = Twin(tower).save_pretrained(tmp_path / "twin"), tmp_path / "texts.txt"
    texts.write_text("How old are you?\nWhat is your age?\n")
    output = tmp_path / "out" / ("vectors.npy" if command == "encode" else "found.tsv")
    output.parent.mkdir()
    output.write_text("as it was")
    monkeypatch.setattr(Twin, "encode_stream", stopped)
    monkeypatch.setattr(Twin, "encode", lambda *_, **__: next(stopped()))
    given = {"encode": [texts], "match": ["--queries", texts, "--documents", texts], "mine": ["sample:forum"]}
    said = textsiam(command, model, *given[command], "--output", output)
    assert said.status == 130
    assert said.err.splitlines()[-1] == f"interrupted: {cli._KEPT[command]}"
    assert cli._KEPT[command].startswith("nothing was written")
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert output.read_text() == "as it was"
