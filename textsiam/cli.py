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
from textsiam.terminal import fail

app = typer.Typer(
    help="Twin encoders that find duplicate questions, and know when a score means 'duplicate'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Look at pairs before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(forums.import_app, name="import")
app.add_typer(indexing.index_app, name="index")
app.add_typer(galleries.gallery_app, name="gallery")

app.command()(scoring.score)
app.command()(scoring.evaluate)
app.command()(labelling.label)
app.command()(labelling.audit)
app.command()(finding.flag)
app.command()(finding.encode)
app.command()(finding.match)
app.command()(indexing.check)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(making.train)
app.command()(forums.adapt)
app.command()(making.mine)
app.command()(making.export)
app.command()(making.ensemble)
app.command()(making.push)
app.command()(making.calibrate)
app.command()(serving.serve)
app.command()(serving.recalibrate)
app.command()(doctor.doctor)
data_app.command("report")(making.report)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _command() -> None:
    status = app(standalone_mode=False)
    sys.stdout.flush()  # a full disk, or a pipe that nobody reads, is met here and not at exit
    sys.exit(status if isinstance(status, int) else 0)


def main(command: Callable[[], Any] = _command) -> None:
    """Run a command; errors that a user can mend are one line on stderr and exit status 1, or 2 for its arguments.

    Where the reader of a pipe has seen enough, as `head` has, that is no error.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8: also valid JSON
    try:
        command()
    except KeyboardInterrupt:
        fail("interrupted", 130)
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
