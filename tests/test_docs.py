"""What the README and the docs say is true of the code."""

import io
import json
import re
import shlex
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

from textsiam.cli import app, main
from textsiam.config.run import Config, read_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def commands(*pages):
    text = "\n".join(block for page in pages or (README, COMMANDS) for block in blocks("bash", page))
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_python_example_runs(minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "my-twin" / "textsiam.json").exists()


# Those of docs/extending.md are run where its files are made.
EVERY_PAGE = [
    page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    if page.stem != "extending"
]


@pytest.mark.parametrize("line", dict.fromkeys(c for c in commands(*EVERY_PAGE) if c.startswith("textsiam")))
def test_every_command_and_option_exists(line):
    tokens = shlex.split(line)[1:]
    command = get_command(app)
    while tokens and tokens[0] in getattr(command, "commands", {}):
        command = command.commands[tokens.pop(0)]
    assert tokens[:1] == ["--version"] or not hasattr(command, "commands"), f"{line}: no such command"
    known = {name for parameter in command.params for name in parameter.opts}
    if command.name == "train":
        read_config([str(ROOT / token) if token.endswith(".yaml") else token for token in tokens])
    else:
        assert {t for t in tokens if t.startswith("--")} <= known


def leaf_commands(command, name=""):
    for word, below in getattr(command, "commands", {}).items():
        yield from leaf_commands(below, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name.strip(), command


@pytest.mark.parametrize("name", LEAVES := dict(leaf_commands(get_command(app))))
def test_every_command_and_option_is_told_of(name):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert re.search(rf"textsiam {name}\b", pages)
    told = {"--help", *re.findall(r"(?<![\w-])--?[a-z][\w-]*", pages)}
    options = [set(one.opts) | set(one.secondary_opts) for one in LEAVES[name].params if one.opts[0].startswith("-")]
    assert [sorted(spellings) for spellings in options if not spellings & told] == []


_LONG = ("train", "serve", "export", "push")  # have tests of their own


@pytest.mark.slow
def test_the_commands_succeed_as_printed(minilm, tmp_path, monkeypatch, capsys):
    from textsiam.data.pairs import sample_pairs
    from textsiam.models.twin import Twin

    monkeypatch.chdir(tmp_path)
    _write_example_files(sample_pairs(), tmp_path)
    Twin(minilm).calibrate(sample_pairs()).save_pretrained("MODEL")
    shutil.copytree("MODEL", "OTHER")
    lines = [shlex.split(c)[1:] for c in commands(COMMANDS) if c.startswith("textsiam")]
    cheap = [tokens for tokens in lines if tokens[0] not in _LONG and "--ray" not in tokens]
    assert len(cheap) >= 14
    for tokens in cheap:
        monkeypatch.setattr("sys.argv", ["textsiam", *tokens])
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 1000))  # somebody to whom all pairs are duplicates
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, f"textsiam {shlex.join(tokens)}: {capsys.readouterr().err}"
    assert (tmp_path / "calibrated/textsiam.json").exists()


def _write_example_files(pairs, folder):
    from textsiam.data.clusters import cluster_ids
    from textsiam.data.tables.writers import write_table

    rows = list(zip(pairs.left_texts[:600], pairs.right_texts[:600], pairs.labels[:600].tolist(), strict=True))
    named = [{"question1": a, "question2": b, "is_duplicate": y} for a, b, y in rows]
    for name in ("pairs.tsv", "feedback.tsv"):
        write_table(folder / name, list(named[0]), named)
    questions = [{"id": str(k), "question": text} for k, text in enumerate(pairs.texts[:300])]
    write_table(folder / "questions.tsv", list(questions[0]), questions)
    write_table(folder / "questions.parquet", dict.fromkeys(questions[0], str), questions)
    write_table(folder / "documents.jsonl", list(questions[0]), questions)
    people = [
        [text for text, group in zip(pairs.texts, cluster_ids(pairs), strict=True) if group == k] for k in range(60)
    ]
    for name, takes in (("enrolled.tsv", slice(0, 2)), ("probes.tsv", slice(2, 4))):
        people_rows = [{"name": t[0], "text": text} for t in people for text in t[takes]]
        write_table(folder / name, ["name", "text"], people_rows)
    (folder / "queries.txt").write_text("\n".join(pairs.texts[:20]), encoding="utf-8")
    write_table(
        folder / "posts.csv", ["id", "title", "body"], [{**q, "title": q["question"], "body": "?"} for q in questions]
    )
    write_table(folder / "links.tsv", ["id1", "id2"], [{"id1": "1", "id2": "2"}])
    (folder / "EXPORT").mkdir()
    topic = {
        "id": 1,
        "title": "How do I cook rice?",
        "post_stream": {"posts": [{"post_number": 1, "cooked": "<p>?</p>"}]},
    }
    (folder / "EXPORT" / "1.json").write_text(json.dumps(topic))
    (folder / "DUMP_FOLDER").mkdir()
    row = '<row Id="1" PostTypeId="1" Title="How do I cook rice?" Body="" CreationDate="2011-08-17T20:18:56.507" />'
    (folder / "DUMP_FOLDER" / "Posts.xml").write_text(f"<posts>{row}</posts>")
    (folder / "DUMP_FOLDER" / "PostLinks.xml").write_text("<postlinks></postlinks>")


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("accelerate launch")])
def test_every_launch_names_a_config_that_reads(line):
    tokens = shlex.split(line)
    arguments = tokens[tokens.index("scripts/train.py") + 1 :]
    assert read_config([str(ROOT / a) if a.endswith(".yaml") else a for a in arguments])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {c.split()[1] for c in commands() if c.startswith("make ")}
    assert named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_file_tree_is_the_real_one():
    tree = re.search(r"## Files\n\n```\n(.*?)```", README, re.S)[1]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        folder = ROOT if not line.startswith(" ") else ROOT / "textsiam"
        assert (folder / name).exists(), name


def leaves(owner, prefix=""):
    for field in fields(owner):
        hint = get_type_hints(owner)[field.name]
        below = [t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t)]
        if not below or field.name in ("loss", "scratch", "head"):
            yield f"{prefix}{field.name}"
        for each in () if field.name in ("loss", "scratch", "head") else below:
            yield from leaves(each, f"{prefix}{field.name}.")


def test_every_config_key_is_documented():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/configuration.md").read_text(encoding="utf-8"), re.M)
    documented = set()
    for row in rows:
        room = ""
        for key in re.findall(r"`([\w.*]+)`", row):
            room = key.rpartition(".")[0] if not key.startswith(".") else room
            documented.add(f"{room}{key}" if key.startswith(".") else key)
    expected = {"loss.*" if key == "loss" else key for key in leaves(Config)}
    assert expected <= documented
    assert {d for d in documented if not d.endswith(".yaml") and "/" not in d} <= expected


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                places = (page.parent / target, page.parent / f"{target}.md")
                assert any(place.exists() for place in places), f"{page.name}: {target}"
