"""The command line: one line for each command. Torch is loaded only when a command needs it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from textsiam import __version__
from textsiam.commands import (
    doctor,
    finding,
    forums,
    galleries,
    indexing,
    labelling,
    making,
    scoring,
    serving,
)
from textsiam.terminal import fail, print_json

app = typer.Typer(
    help="Twin encoders that find duplicate questions, and know when a score means 'duplicate'.",
    epilog="Each command has an example: textsiam COMMAND --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at pairs before training on them.", no_args_is_help=True)

# The help's sections: each command with an example.
_SECTIONS: dict[str, dict[Callable[..., Any], str]] = {
    "Find duplicates": {
        scoring.score: 'score MODEL "How old are you?" "What is your age?"',
        finding.flag: "flag MODEL questions.tsv --output flagged.tsv",
        finding.match: "match MODEL --queries queries.txt --documents documents.jsonl --top-k 10",
        finding.encode: "encode MODEL questions.tsv --output vectors.npy",
        indexing.check: 'check MODEL index "new question" --json',
        serving.serve: "serve MODEL --index index",
    },
    "Make a twin": {
        making.train: "train configs/qqp.yaml --data.train pairs.tsv --resume true",
        forums.adapt: "adapt MODEL forum --output twin",
        making.mine: "mine MODEL pairs.tsv --category semi-hard --output triplets.tsv",
        making.ensemble: "ensemble MODEL OTHER --output both --calibrate pairs.tsv",
        making.export: "export MODEL --format openvino --int8 --output fast",
        making.push: "push MODEL user/repo --private",
    },
    "Decide and prove": {
        scoring.evaluate: "evaluate MODEL pairs.tsv --report report.html",
        scoring.report: "report MODEL OTHER pairs.tsv --output report.html",
        making.calibrate: "calibrate MODEL pairs.tsv --output calibrated",
        labelling.label: "label MODEL forum --precision 0.95 --output labels.tsv",
        labelling.audit: "audit flagged.tsv --labels audit.tsv",
        serving.recalibrate: "recalibrate MODEL --feedback feedback.tsv",
    },
    "Data and machine": {doctor.doctor: "doctor --json"},
}
_GROUPS: dict[str, tuple[typer.Typer, str, dict[str, str]]] = {
    "data": (data_app, "Data and machine", {"report": "pairs.tsv"}),
    "import": (
        forums.import_app,
        "Data and machine",
        {
            "stackexchange": "DUMP_FOLDER --output forum",
            "discourse": "EXPORT --output forum",
            "sample": "--output forum",
            "table": 'posts.csv --text "{title}. {body}" --links links.tsv --output forum',
        },
    ),
    "index": (
        indexing.index_app,
        "Find duplicates",
        {
            "create": "MODEL index",
            "add": "MODEL index questions.tsv",
            "search": 'MODEL index "new question" --top-k 5',
            "delete": "index ID",
            "stats": "index --json",
            "compact": "index",
            "migrate": "OTHER index",
            "snapshot": "index copy",
        },
    ),
    "gallery": (
        galleries.gallery_app,
        "Find duplicates",
        {
            "enroll": "MODEL accounts enrolled.tsv",
            "remove": "MODEL accounts NAME",
            "list": "MODEL accounts",
            "calibrate": "MODEL accounts probes.tsv --far 0.01",
            "verify": "MODEL accounts NAME probe.png",
            "identify": "MODEL accounts probe.png",
        },
    ),
}
# What a command that was stopped has kept, and how it goes on: of all others, which write in their end, nothing.
_NOTHING = "nothing was written; the same command begins again"
_KEPT = {
    "adapt": "nothing was written, as a twin is kept once it was judged; the same command begins again",
    "encode": "nothing was written, as vectors are whole or absent; `textsiam index add` keeps what it encodes",
    "flag": "with --work FOLDER the same command goes on where it was stopped",
    "index": "the index is whole; the same command goes on",
    "index add": "what was added is kept; the same command adds the rest",
    "label": "all answers are kept; the same command goes on",
    "match": "nothing was written; the same command begins again; `textsiam index add` keeps what it encodes",
    "mine": "nothing was written, as negatives are sought among all texts; the same command and --seed find the same",
    "serve": "decisions and answers are kept; the same command goes on",
    "train": "with --resume true the same command goes on from its last checkpoint",
}


def _register() -> None:
    """Give the app its commands, in sections, each with an example."""
    data_app.command("report")(making.report)
    for section, commands in _SECTIONS.items():
        for command, example in commands.items():
            free = {"allow_extra_args": True, "ignore_unknown_options": True} if command is making.train else None
            app.command(rich_help_panel=section, epilog=f"Example: textsiam {example}", context_settings=free)(command)
    for group, (sub, section, examples) in _GROUPS.items():
        for one in sub.registered_commands:
            name = one.name or getattr(one.callback, "__name__", "")
            one.epilog = f"Example: textsiam {group} {name} {examples[name]}"
        app.add_typer(sub, name=group, rich_help_panel=section)


_register()


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --version: all versions.")] = False,
) -> None:
    if version:
        print_json(doctor.versions()) if as_json else print(__version__)
        raise typer.Exit
    if as_json:
        raise typer.BadParameter(f"--json stands behind the command: {context.invoked_subcommand or 'doctor'} --json")


def _command() -> None:
    status = app(standalone_mode=False)
    if status == 130:  # what Typer makes of Ctrl-C
        raise KeyboardInterrupt
    sys.stdout.flush()  # a full disk, or a pipe that nobody reads, is met here and not at exit
    sys.exit(status if isinstance(status, int) else 0)


def _open_closed() -> None:
    """Open what the shell has closed (`>&-`): nobody wants to read it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def main(command: Callable[[], Any] = _command) -> None:
    """Run a command; errors that a user can mend are one line on stderr and exit status 1, or 2 for its arguments.

    Where the reader of a pipe has seen enough, as `head` has, that is no error.
    """
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8: also valid JSON
    try:
        command()
    except KeyboardInterrupt:
        print(file=sys.stderr)  # below a progress bar, and the ^C that a terminal shows
        words = [word for word in sys.argv[1:3] if not word.startswith("-")] if command is _command else ["train"]
        fail(f"interrupted: {next((_KEPT[n] for n in (' '.join(words), *words[:1]) if n in _KEPT), _NOTHING)}", 130)
    except BrokenPipeError:
        _end_unread()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer makes it a failure
            _end_unread()
        raise
    except Exception as error:
        if (said := getattr(error, "format_message", None)) is not None:  # what Typer says of arguments
            help_page = type(error).__name__ == "NoArgsIsHelpError"
            fail(said() if help_page else f"error: {said()}", 2)
        if type(error).__name__ == "Interrupted":
            fail(str(error), 130)
        if isinstance(error, (ValueError, OSError)) and not os.environ.get("TEXTSIAM_TRACEBACK"):
            fail(f"error: {error}", 1)
        raise


def _end_unread() -> NoReturn:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    sys.exit(0)


if __name__ == "__main__":
    main()
