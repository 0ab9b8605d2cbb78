"""The command line: one line for each command. Torch is loaded only when a command needs it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from textsiam import __version__
from textsiam.commands import adapting, finding, importing, indexing, labelling, making, scoring, serving
from textsiam.terminal import fail

app = typer.Typer(
    help="Twin encoders that find duplicate questions, and know when a score means 'duplicate'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Look at pairs before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(importing.import_app, name="import")
app.add_typer(indexing.index_app, name="index")

app.command()(scoring.score)
app.command()(scoring.evaluate)
app.command()(labelling.label)
app.command()(labelling.audit)
app.command()(finding.flag)
app.command()(finding.encode)
app.command()(finding.match)
app.command()(indexing.check)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(making.train)
app.command()(adapting.adapt)
app.command()(making.mine)
app.command()(making.export)
app.command()(making.ensemble)
app.command()(making.calibrate)
app.command()(serving.serve)
app.command()(serving.recalibrate)
data_app.command("report")(making.report)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main(command: Callable[[], Any] = app) -> None:
    """Run a command; errors that a user can mend are one line on stderr and exit status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8: also valid JSON
    try:
        command()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if type(error).__name__ == "Interrupted":
            fail(str(error), 130)
        if isinstance(error, (ValueError, OSError)) and not os.environ.get("TEXTSIAM_TRACEBACK"):
            fail(f"error: {error}", 1)
        raise


if __name__ == "__main__":
    main()
