"""The simulator and `raynas bench`: searches against tables, on a virtual clock."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.stats import binom

import raynas
import search_spaces
from raynas.benchmarking import progress
from raynas.benchmarking.bench import split_names
from raynas.benchmarking.simulation import Simulation
from raynas.errors import InvalidArgument
from raynas.schedulers import Asha
from raynas.searchers import Evolution, Naswot, RandomSearch
from trials.tables.benchmark import Roles, read_benchmark

TABLES = Path(__file__).parents[2] / "shared" / "data"
NB201 = TABLES / "nb201.parquet"
MACRO = search_spaces.get("nasbench_macro")
PUBLISHED = {
    "table": NB201, "architecture": "arch", "metric": "c10_valid_12",
    "cost": "c10_time_epoch_s*12", "report": "c10_test_200", "time_budget": 12_000,
}  # fmt: skip

real = pytest.mark.skipif(not NB201.exists(), reason="the published tables are not here")


def macro_table(**columns):
    """All 6,561 architectures of NAS-Bench-Macro and a made-up accuracy that can be climbed."""
    archs = list(MACRO)
    forms = [MACRO.canonical(arch) for arch in archs]  # equal ones are equally good
    value = [sum(c == (i % 3) for i, c in enumerate(form.choices)) / 8 for form in forms]
    frame = pd.DataFrame({"architecture": list(map(MACRO.to_string, archs)), "value": value})
    return frame.assign(**columns)


@pytest.fixture(scope="module")
def macro():
    return macro_table()


def test_one_row_per_searcher_and_run(macro):
    frame = raynas.bench(
        macro, "architecture", ["random", Evolution(population=5)], "value", queries=30, runs=4
    )
    assert list(frame) == ["search", "run", "report", "queries", "queries_to_best", "seconds"]
    assert frame["search"].nunique() == 2
    assert list(frame["run"]) == [0, 1, 2, 3] * 2
    assert (frame["queries"] == 30).all()
    assert (frame["seconds"] == 30).all()  # without a cost, each costs one


def test_same_seed_same_result_in_any_number_of_processes(macro):
    arguments = (macro, "architecture", "evolution,local,auto:initial=3", "value")
    one, two = (raynas.bench(*arguments, queries=15, runs=12, seed=5, jobs=jobs) for jobs in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    other = raynas.bench(*arguments, queries=15, runs=12, seed=6)
    assert not one["report"].equals(other["report"])


def test_what_has_not_ended_within_the_budget_does_not_count(macro):
    frame = raynas.bench(
        macro.assign(cost=10.0), "architecture", "random", "value", "cost", time_budget=95, runs=3
    )
    assert (frame["queries"] == 9).all()
    assert (frame["seconds"] == 95).all()
    frame = raynas.bench(
        macro.assign(cost=10.0), "architecture", "random", "value", "cost",
        time_budget=95, runs=3, workers=4,
    )  # fmt: skip
    assert (frame["queries"] == 36).all()


def test_repetitions_are_paid_for_under_a_time_budget_only():
    frame = macro_table().head(9)  # of nine architectures, some are soon drawn again
    different = len({MACRO.canonical(MACRO.from_string(text)) for text in frame["architecture"]})
    arguments = (frame, "architecture", "random", "value")
    assert (raynas.bench(*arguments, time_budget=50, runs=3)["queries"] == 50).all()
    assert (
        raynas.bench(*arguments, time_budget=50, runs=3, unique=True)["queries"] == different
    ).all()
    assert (raynas.bench(*arguments, queries=50, runs=3)["queries"] == different).all()


def test_queries_to_best_counts_until_the_best_of_the_table(macro):
    frame = raynas.bench(macro, "architecture", "local,random", "value", queries=200, runs=5)
    found = frame[frame["search"] == "local"]
    assert (found["report"][found["queries_to_best"].notna()] == macro["value"].max()).all()
    assert found["queries_to_best"].notna().sum() >= 3
    assert frame[frame["search"] == "random"]["queries_to_best"].isna().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": None}, "give one of the two"),
        ({"time_budget": 5}, "give one of the two"),
        ({"queries": 0}, "queries=0 must be at least 1"),
        ({"runs": 0}, "runs=0 must be at least 1"),
        ({"queries": None, "time_budget": -1}, "time_budget=-1 must be positive"),
        ({"search": "evolutoin"}, "Did you mean 'evolution'"),
        ({"search": "evolution:popluation=3"}, "has no option 'popluation'"),
        ({"search": [3]}, "search=3 is neither a name nor a Searcher"),
        ({"search": ""}, "names no searcher"),
        ({"search": "random,adanet:rule=prs"}, "search='adanet:rule=prs' grows an ensemble"),
        ({"metric": "valve"}, "Did you mean 'value'"),
        ({"scheduler": "ashen"}, "Did you mean 'asha'"),
        ({"scores": pd.DataFrame({"arch": []})}, "wanted are a column 'architecture'"),
        ({"figure": "nowhere/at/all.png"}, "cannot be written"),
        ({"queries": None, "time_budget": math.inf}, "positive and finite"),
        ({"queries": None, "time_budget": 9, "cost": "value * 0"}, "is 0 everywhere"),
        ({"search": 5}, "search=5: give names"),
        ({"scheduler": 5}, "scheduler=5 is neither"),
        ({"scheduler": "asha-stratified"}, "no cells as graphs, so no depth"),
        ({"space": 5}, "space=5 is neither"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        (
            {"scores": pd.DataFrame({"architecture": ["0" * 8], "naswot": ["much"]})},
            "naswot must be numbers",
        ),
    ],
)
def test_bad_input_is_named(macro, change, message):
    arguments = {"search": "random", "metric": "value", "queries": 3, "runs": 1, **change}
    with pytest.raises(InvalidArgument, match=message):
        raynas.bench(macro, "architecture", **arguments)


def test_options_belong_to_the_searcher_before_them():
    text = "random,evolution:population=30,sample=10,area"
    assert split_names(text) == ["random", "evolution:population=30,sample=10", "area"]
    text = "neighborhood:neighbors=8,inner=evolution:population=20;sample=2,random"
    assert split_names(text) == [text.removesuffix(",random"), "random"]


def test_objects_of_one_kind_are_told_apart(macro):
    searchers = [Evolution(population=4), Evolution(population=40), RandomSearch()]
    frame = raynas.bench(macro, "architecture", searchers, "value", queries=5, runs=2)
    assert list(frame["search"].unique()) == ["evolution", "evolution#2", "randomsearch"]


def test_a_budget_in_which_nothing_ends_is_shown_as_such(macro, tmp_path):
    frame = raynas.bench(
        macro.assign(cost=10.0), "architecture", "random", "value", "cost", time_budget=5, runs=2,
        figure=tmp_path / "empty.png",
    )  # fmt: skip
    assert frame["report"].isna().all()
    assert (frame["queries"] == 0).all()


def test_a_promotion_is_no_further_query_and_only_a_full_evaluation_finds():
    value = pd.Series([[i / 7000, i / 7000, i / 7000] for i in range(6561)])
    frame = raynas.bench(
        macro_table(value=value).head(60), "architecture", "random", "value",
        queries=60, runs=20, scheduler="asha:reduction=2,variant=promotion",
    )  # fmt: skip
    assert (frame["queries"] <= 60).all()
    best = frame["report"].max()
    assert (frame["report"][frame["queries_to_best"].notna()] == best).all()
    assert frame["queries_to_best"].notna().any()


def test_scores_that_are_nan_rank_last_and_missing_ones_are_noted(macro):
    scores = macro[["architecture"]].assign(naswot=macro["value"])
    scores.loc[scores.index[::2], "naswot"] = np.nan
    arguments = ("architecture", "naswot:candidates=200", "value")
    frame = raynas.bench(macro, *arguments, scores=scores, queries=3, runs=5)
    assert frame["report"].notna().all()
    frame = raynas.bench(macro, *arguments, scores=scores.head(9), queries=3, runs=1)
    assert "architectures have no score by naswot" in frame.attrs["notes"][0]


def test_scores_by_an_own_proxy_come_from_the_column_of_its_name(macro):
    def oracle(network, images, labels):
        raise AssertionError("nothing is built")

    searcher = Naswot(candidates=60000, proxy=oracle)
    arguments = ("architecture", [searcher], "value")
    frame = raynas.bench(macro.assign(oracle=macro["value"]), *arguments, queries=1, runs=1)
    assert frame["report"][0] == macro["value"].max()
    frame = raynas.bench(macro, *arguments, queries=1, runs=1)
    assert "no scores by oracle were given (`scores`); MACs stand in" in frame.attrs["notes"][0]


def test_scores_come_from_the_table_from_a_file_or_macs_stand_in(macro):
    arguments = ("architecture", "naswot:candidates=60000", "value")
    queries = {"queries": 5, "runs": 2}
    oracle = macro.assign(naswot=macro["value"])
    by_column = raynas.bench(oracle, *arguments, **queries)
    assert (by_column["queries"] == 1).all()  # nothing else is evaluated
    assert (by_column["report"] == macro["value"].max()).all()
    scores = oracle[["architecture", "naswot"]]
    by_file = raynas.bench(macro, *arguments, scores=scores, **queries)
    pd.testing.assert_frame_equal(by_column, by_file)
    assert by_file.attrs["notes"] == []
    stand_in = raynas.bench(macro, *arguments, **queries)
    assert "MACs stand in" in stand_in.attrs["notes"][0]


def test_area_with_an_oracle_starts_with_the_better_half(macro):
    oracle = macro.assign(naswot=macro["value"])
    area = raynas.bench(oracle, "architecture", "area", "value", queries=10, runs=40)
    plain = raynas.bench(oracle, "architecture", "evolution", "value", queries=10, runs=40)
    assert area["report"].mean() > plain["report"].mean() + 0.03


def test_asha_on_many_workers_reaches_the_rungs_that_it_should():
    rng = np.random.default_rng(0)
    final = rng.random(6561)
    curves = [list(value * np.linspace(0.5, 1, 9)) for value in final]
    frame = macro_table(value=pd.Series(curves), cost=9.0)
    benchmark = read_benchmark(frame, Roles("architecture", "value", "cost"))
    for variant in ("stopping", "promotion"):
        simulation = Simulation(
            benchmark, RandomSearch(), Asha(reduction=3, variant=variant), queries=900, workers=50
        ).run()
        sizes = [len(rung) for rung in simulation.search.scheduler.rungs.values()]
        assert sizes[0] == 900
        assert sizes[1] == pytest.approx(300, rel=0.25)
        full = [e for e in simulation.search.evaluations if e.epochs == 9]
        assert 50 < len(full) < 200
        best = max(final[benchmark.row(arch)] for arch in simulation.search.architectures)
        assert simulation.search.best.value == pytest.approx(best)
        assert not simulation.search._running


def test_failed_evaluations_cost_and_never_win(macro):
    values = macro["value"].where(macro["value"] < 0.6)
    frame = raynas.bench(
        macro.assign(value=values), "architecture", "evolution,auto", "value", queries=60, runs=3
    )
    assert (frame["report"] < 0.6).all()
    assert (frame["queries"] == 60).all()


def test_the_table_that_comes_along_works_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "raynas", "bench", "--queries", "20", "--runs", "3", "--json"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert set(answer["summary"]) == {"random", "evolution", "area", "local", "auto"}
    assert all(0.5 < row["report_mean"] <= 1 for row in answer["summary"].values())
    assert len(answer["runs"]) == 15
    assert answer["notes"] == []
    done = subprocess.run(
        [sys.executable, "-m", "raynas", "bench", "--queries", "20", "--runs", "3"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert "evolution" in done.stdout
    assert (tmp_path / "raynas-bench.png").stat().st_size > 10_000


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_and_lines_elsewhere(monkeypatch, terminal):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def runs(label):
        for run in range(3):
            now[0] += 3
            yield {"search": label, "run": run}, []

    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, color_system=None, width=80)
    outcomes = {"random": runs("random"), "auto": runs("auto")}
    rows = [row for row, _ in progress.shown(outcomes, 3, console)]
    assert [(row["search"], row["run"]) for row in rows] == [
        (label, run) for label in ("random", "auto") for run in range(3)
    ]
    if terminal:
        assert "6/6 runs" in written.getvalue()
        assert written.getvalue().count("\n") == 1  # at its end, then it is gone
        assert written.getvalue().endswith("\x1b[1A\x1b[2K")
    else:
        lines = ["2/6 runs, now random", "4/6 runs, now auto", "6/6 runs, now auto"]
        assert written.getvalue().splitlines() == lines


def test_what_is_over_in_a_moment_shows_nothing(capfd, macro):
    raynas.bench(macro, "architecture", "random", "value", queries=3, runs=2)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@real
def test_random_search_and_evolution_reproduce_the_published_baselines():
    """NAS-Bench-201: RS 93.70, REA 93.92 in 12,000 simulated seconds, 500 runs."""
    frame = raynas.bench(**PUBLISHED, search="random,evolution", runs=500)
    means = frame.groupby("search")["report"].mean()
    assert means["random"] == pytest.approx(93.70, abs=0.1)
    assert means["evolution"] == pytest.approx(93.92, abs=0.1)
    queries = frame.groupby("search")["queries"].mean()
    assert 85 < queries["evolution"] < 115


@real
def test_best_of_n_architectures():
    """As computed elsewhere from the same table; published: 93.06 +- .59 and 93.84 +- .23."""
    table = pd.read_parquet(NB201)
    assert table["c10_test_200"].mean() == pytest.approx(87.06, abs=0.01)
    arguments = {**PUBLISHED, "metric": "c10_test_200", "cost": "", "time_budget": None}
    for n, mean, std in ((10, 93.12, 0.55), (100, 93.86, 0.24)):
        frame = raynas.bench(**arguments, search="random", queries=n, runs=500)
        assert frame["report"].mean() == pytest.approx(mean, abs=4 * std / math.sqrt(500))
        assert frame["report"].std() == pytest.approx(std, rel=0.2)


def claimed_of_auto(data, of="classes"):
    """{column: number} of a row of the table of `auto` in docs/search.md."""
    lines = (Path(__file__).parents[1] / "docs" / "search.md").read_text().splitlines()
    head = next(line for line in lines if line.startswith("| `auto` on"))
    (row,) = (line for line in lines if line.startswith(f"| {data} | {of} |"))
    names, cells = ([cell.strip() for cell in line.split("|")[3:-1]] for line in (head, row))
    return {name: float(cell) for name, cell in zip(names, cells, strict=True)}


@real
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("data", "column"), [("CIFAR-10", "c10"), ("CIFAR-100", "c100")])
def test_auto_needs_as_many_evaluations_as_the_docs_say(data, column):
    """20 of their 200 runs: as many are below each quantile as chance allows, once in 500."""
    claimed, runs = claimed_of_auto(data), 20
    frame = raynas.bench(
        NB201, "arch", "auto", f"{column}_valid_200", report=f"{column}_test_200",
        queries=100, runs=runs, jobs=2,
    )  # fmt: skip
    queries = frame["queries_to_best"].fillna(np.inf)
    for quantile, name in ((0.25, "25 %"), (0.5, "median"), (0.75, "75 %"), (0.9, "90 %")):
        low, high = binom.interval(0.998, runs, quantile)
        assert (queries <= claimed[name]).sum() >= low, name
        assert (queries < claimed[name]).sum() <= high, name
    for values, name in ((queries.clip(upper=100), "mean"), (frame["report"], "test accuracy")):
        error = values.std() / math.sqrt(runs)
        assert values.mean() == pytest.approx(claimed[name], abs=3 * error + 1e-3), name
