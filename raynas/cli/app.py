"""The command line: verbs on one program. The flags of `run` are the fields of `Config`."""

import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

import raynas
import search_spaces
from raynas.benchmarking.bench import summary
from raynas.config.config import Config, read_yaml
from raynas.errors import InvalidArgument, RaynasError, StorageError
from raynas.record.formatting import shown
from raynas.record.journal import is_locked
from raynas.record.models import export_again
from raynas.record.results import Result
from search_spaces.naming import spell
from trials.proxies import PROXIES

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Neural architecture search on Ray Tune.",
)  # fmt: skip

_LABELS = {"val_accuracy": "validation accuracy"}

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def main() -> None:
    """The entry point: errors become one line on standard error and exit status 2."""
    try:
        app()
    except RaynasError as error:
        print(f"raynas: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("raynas: interrupted. The same command continues the run.", file=sys.stderr)
        sys.exit(130)


def _flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for every field of `Config`; those not given arrive as None."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "arguments"]
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Optional[_flag_type(field.annotation)],  # noqa: UP045  typer wants it
                typer.Option(help=f"{field.description} [{field.default}]"),
            ],
        )
        for name, field in Config.model_fields.items()
    ]

    def with_flags(**given: Any) -> None:
        arguments = {key: given.pop(key) for key in Config.model_fields}
        command(**given, arguments={key: v for key, v in arguments.items() if v is not None})

    with_flags.__doc__ = command.__doc__
    with_flags.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    return with_flags


def _flag_type(annotation: Any) -> type:
    text = str(annotation)
    return int if "int" in text else float if "float" in text else str


def _run(
    config: Annotated[
        Optional[Path], typer.Option(help="YAML file with these arguments")  # noqa: UP045
    ] = None,
    as_json: AsJson = False,
    *,
    arguments: dict[str, Any],
) -> None:
    """Search, train the best architecture, export it, report; or continue doing so."""
    given = read_yaml(config) if config else {}
    _print_result(raynas.run(**{**given, **arguments}), as_json)


app.command("run")(_flags(_run))


@app.command()
def resume(
    path: Annotated[Path, typer.Argument(help="run folder")],
    samples: Annotated[Optional[int], typer.Option(help="architectures in all")] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run, or extend a finished one."""
    changes = {} if samples is None else {"samples": samples}
    _print_result(raynas.resume(path, **changes), as_json)


@app.command()
def status(
    path: Annotated[Path, typer.Argument(help="run folder")], as_json: AsJson = False
) -> None:
    """Show how far a run is; it may be running."""
    result = raynas.load(path)
    state = "running" if is_locked(result.path) else "finished" if result.finished else "stopped"
    counts = result.trials["status"].value_counts().to_dict()
    try:
        best: dict[str, Any] | None = {
            "architecture": result.best.architecture, **result.best.metrics,
        }  # fmt: skip
    except RaynasError:
        best = None
    content = {
        "path": str(result.path),
        "state": state,
        "samples": result.config["samples"],
        "evaluations": counts,
        "best": best,
    }
    if as_json:
        print(json.dumps(content, default=_plain))
        return
    print(f"{result.path}: {state}")
    print(f"{len(result.trials)} of {content['samples']} evaluations started: {counts}")
    if best:
        print(f"best: {best['architecture']}, {shown(result.metric, best[result.metric])}")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="run folder")],
    to: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
    format: Annotated[
        str, typer.Option(help="pt2, onnx or safetensors, or several: pt2,onnx")
    ] = "pt2",
) -> None:
    """Write the trained best architecture in a form that loads without raynas."""
    best = raynas.load(path).best
    for written in export_again(best.model(), best.folder, to, format.split(",")):
        print(written)


@app.command()
def ensemble(
    path: Annotated[Path, typer.Argument(help="run folder")],
    rule: Annotated[
        str, typer.Option(help="prs, pap, pie; to compare also pap-literal, greedy")
    ] = "pie",
    size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="members to keep; default: as few as the tolerance allows"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="of pie: diversity against relevance")] = 0.5,
    tolerance: Annotated[
        float, typer.Option(help="validation accuracy that may be lost, as a fraction")
    ] = 0.005,
    combine: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="average (default), vote, weighted-vote or mixture"),
    ] = None,
    temperature: Annotated[bool, typer.Option(help="calibrate the ensemble by one")] = True,
    stopped: Annotated[
        bool, typer.Option(help="let evaluations that were stopped early be members too")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prune the trained architectures of a finished run to a small, diverse ensemble."""
    if not raynas.load(path).finished:
        raise InvalidArgument(f"path={str(path)!r}: the run is not finished. raynas resume {path}")
    options = {
        "rule": rule, "size": size, "alpha": alpha, "tolerance": tolerance, "combine": combine,
        "temperature": temperature, "stopped": stopped,
    }  # fmt: skip
    given = {key: option for key, option in options.items() if option is not None}
    made = raynas.resume(path, ensemble=spell("saep", given)).ensemble
    if as_json:
        content = {**made.found, "members": made.members.to_dict("records")}
        print(json.dumps(content, default=_plain))
        return
    table = Table("", "members", "validation", "test", "loss", "parameters", box=None)
    for label, values in (("ensemble", made.metrics), ("all candidates", made.found["unpruned"])):
        table.add_row(
            label, f"{values['members']:.0f}", f"{values['val_accuracy']:.2%}",
            f"{values['test_accuracy']:.2%}", f"{values['test_loss']:.4f}",
            f"{values['params']:,.0f}",
        )  # fmt: skip
    Console().print(table)
    for index, reason in made.excluded.items():
        print(f"raynas: #{index} is no candidate: {reason}", file=sys.stderr)
    print(made.folder / "model.pt2")


@app.command()
def spaces(
    name: Annotated[Optional[str], typer.Argument(help="one space only")] = None,  # noqa: UP045
    draw: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="architecture, or genotype, to draw: Graphviz text, and a PNG"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces, or draw an architecture of one."""
    if draw is not None:
        _draw(name, draw)
        return
    found = [search_spaces.get(n) for n in ([name] if name else search_spaces.names())]
    rows = [
        {
            "name": space.name,
            "size": space.size,
            "decisions": len(space.decisions),
            "notation": space.notation,
            "paper": space.paper,
        }
        for space in found
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    Console().print(table)
    if name:
        for decision in found[0].decisions:
            print(f"{decision.name}: {', '.join(map(str, decision.choices))}")


@app.command()
def score(
    space: Annotated[str, typer.Option(help="search space")] = "nasbench201",
    data: Annotated[str, typer.Option(help="data set")] = "digits",
    samples: Annotated[int, typer.Option(help="architectures drawn at random")] = 100,
    architecture: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="one to score instead; may be repeated"),
    ] = None,
    proxy: Annotated[str, typer.Option(help=f"one of {', '.join(PROXIES)}")] = "naswot",
    batch_size: Annotated[int, typer.Option(help="images of the mini-batch")] = 128,
    seed: Annotated[int, typer.Option(help="of weights, mini-batch and draws")] = 0,
    to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Parquet file of the scores; what is in it is not scored again"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score architectures without training, the best first."""
    frame = raynas.score(
        space, data, architecture or samples, proxy, batch_size, seed, path=to
    ).sort_values(proxy, ascending=False)
    if as_json:
        rows = [
            {key: _finite(v) if isinstance(v, float) else v for key, v in row.items()}
            for row in frame.to_dict("records")
        ]
        print(json.dumps({"proxy": proxy, "scores": rows}))
        return
    for row in frame.itertuples(index=False):
        print(f"{row[1]:>12.6g}  {row[0]}{f'  {row[2]}' if row[2] else ''}")


@app.command()
def bench(
    table: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Parquet file; default: the small table that comes with raynas"),
    ] = None,
    architecture: Annotated[str, typer.Option(help="column of the architectures")] = "",
    search: Annotated[
        str, typer.Option(help="searchers, joined by commas")
    ] = "random,evolution,area,local,auto",
    metric: Annotated[str, typer.Option(help="column or expression that they maximize")] = "",
    cost: Annotated[str, typer.Option(help="column or expression: seconds each costs")] = "",
    report: Annotated[str, typer.Option(help="column or expression reported of the best")] = "",
    time_budget: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="virtual seconds of a run"),
    ] = None,
    queries: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="evaluations of a run, instead of a time budget"),
    ] = None,
    runs: Annotated[int, typer.Option(help="repetitions")] = 500,
    seed: Annotated[int, typer.Option(help="all randomness derives from it")] = 0,
    space: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="search space; default: by the notation"),
    ] = None,
    scheduler: Annotated[str, typer.Option(help="of learning curves: fifo, asha")] = "fifo",
    workers: Annotated[int, typer.Option(help="evaluations at the same time")] = 1,
    unique: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="pay once for equal architectures; default: with --queries"),
    ] = None,
    scores: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="proxy scores, as `raynas score` writes them"),
    ] = None,
    jobs: Annotated[int, typer.Option(help="processes")] = 1,
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="picture of the best so far; default: raynas-bench.png, none with json"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run searchers on a tabular benchmark, many times, on a virtual clock."""
    if queries is None and time_budget is None:
        queries = 100
    if figure is None and not as_json:
        figure = Path("raynas-bench.png")
    frame = raynas.bench(
        table, architecture, search, metric, cost, report, time_budget, queries, runs, seed, space,
        scheduler, workers, unique, scores, jobs, figure,
    )  # fmt: skip
    rows = summary(frame)
    for note in frame.attrs["notes"]:
        print(f"raynas: {note}", file=sys.stderr)
    if as_json:
        runs_of = json.loads(frame.to_json(orient="records"))
        finite = {k: {n: _finite(v) for n, v in row.items()} for k, row in rows.items()}
        print(json.dumps({"summary": finite, "runs": runs_of, "notes": frame.attrs["notes"]}))
        return
    shown = Table("search", "report", "evaluations", "seconds", "best found", "after", box=None)
    for label, row in rows.items():
        shown.add_row(
            label, f"{row['report_mean']:.4g} ± {row['report_std']:.2g}",
            f"{row['queries_mean']:.0f}", f"{row['seconds_mean']:.0f}", f"{row['found_best']:.0%}",
            f"{row['queries_to_best_median']:.0f} (90 %: {row['queries_to_best_p90']:.0f})",
        )  # fmt: skip
    Console().print(shown)
    print(figure)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _draw(name: str | None, text: str) -> None:
    """Print an architecture as Graphviz text and write its picture to the current folder."""
    if name is None:
        raise InvalidArgument("--draw needs the name of a space: raynas spaces NAME --draw ARCH.")
    space = search_spaces.get(name)
    arch = space.from_string(text)
    print(space.to_graphviz(arch))
    path = Path(f"{space.name}.png")
    try:
        space.draw(arch).savefig(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error
    print(path, file=sys.stderr)


def _print_result(result: Result, as_json: bool) -> None:
    best, metric = result.best, result.metric
    if as_json:
        content = {"path": str(result.path), "architecture": best.architecture, **best.metrics}
        print(json.dumps(content, default=_plain))
        return
    lines = {
        "best architecture": best.architecture,
        _LABELS.get(metric, metric): f"{shown(metric, best.metrics[metric])} (in the search)",
        "test accuracy": f"{best.metrics['test_accuracy']:.2%} (after the final training)",
        "model": best.folder / "model.pt2",
        "report": result.path / "report.html",
        "TensorBoard": f"tensorboard --logdir {result.path / 'tensorboard'}",
    }
    for label, value in lines.items():
        print(f"{label + ':':21}{value}")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else None if value is pd.NA else str(value)
