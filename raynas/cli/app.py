"""The program: its verbs, and one line for every error.

Nothing that takes long is imported before a verb needs it; `tests/test_startup.py` holds it so.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from raynas.cli.bench import bench
from raynas.cli.ensemble import ensemble
from raynas.cli.export import export
from raynas.cli.predict import predict
from raynas.cli.report import report
from raynas.cli.retrain import retrain
from raynas.cli.run import resume, run
from raynas.cli.score import score
from raynas.cli.spaces import spaces
from raynas.cli.status import status
from raynas.cli.understand import understand
from raynas.errors import RaynasError, Terminated

_CONTINUED = (
    "run",
    "resume",
    "retrain",
    "ensemble",
    "understand",
)  # verbs that go on where they were


class Verbs(TyperGroup):
    """The verbs, of which each can be interrupted."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a verb; Ctrl-C and SIGTERM become one line and status 130, or 143."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            terminated = isinstance(interruption, Terminated)
            goes_on = ctx.invoked_subcommand in _CONTINUED
            sentence = " The same command continues the run." if goes_on else ""
            how, status = ("terminated", 143) if terminated else ("interrupted", 130)
            print(f"raynas: {how}.{sentence}", file=sys.stderr)
            raise typer.Exit(status) from None


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Neural architecture search on Ray Tune.",
)  # fmt: skip

app.command("run")(run)
app.command("resume")(resume)
app.command("status")(status)
app.command("report")(report)
app.command("predict")(predict)
app.command("export")(export)
app.command("retrain")(retrain)
app.command("ensemble")(ensemble)
app.command("understand")(understand)
app.command("spaces")(spaces)
app.command("score")(score)
app.command("bench")(bench)


def main() -> None:
    """Run a verb; an error becomes one line on standard error and exit status 2."""
    try:
        app()
    except RaynasError as error:
        print(f"raynas: {error}", file=sys.stderr)
        sys.exit(2)
