"""The program: its verbs, and one line for every error.

Nothing that takes long is imported before a verb needs it; `tests/test_startup.py` holds it so.
"""

import sys

import typer

from raynas.cli.bench import bench
from raynas.cli.ensemble import ensemble
from raynas.cli.export import export
from raynas.cli.run import resume, run, status
from raynas.cli.score import score
from raynas.cli.spaces import spaces
from raynas.cli.understand import understand
from raynas.errors import RaynasError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Neural architecture search on Ray Tune.",
)  # fmt: skip

app.command("run")(run)
app.command("resume")(resume)
app.command("status")(status)
app.command("export")(export)
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
    except KeyboardInterrupt:
        print("raynas: interrupted. The same command continues the run.", file=sys.stderr)
        sys.exit(130)
