"""Tabular benchmarks: what is read, what is refused."""

import numpy as np
import pandas as pd
import pytest
import yaml

import search_spaces
from search_spaces.errors import InvalidArchitecture, InvalidArgument, UnknownName
from trials.table import Roles, read_benchmark

MICRO = search_spaces.get("micro64")


def table(**columns):
    """All 64 architectures of micro64 and some made-up numbers."""
    archs = [MICRO.to_string(arch) for arch in MICRO]
    frame = pd.DataFrame({"arch": archs, "value": np.linspace(0, 1, 64), "hours": 0.5, "by": "me"})
    return frame.assign(**columns)


def read(frame, **roles):
    return read_benchmark(frame, Roles(**{"architecture": "arch", "metric": "value", **roles}))


def test_space_is_found_from_the_notation_and_expressions_are_evaluated():
    benchmark = read(table(), cost="hours * 3600", report="value * 100")
    assert benchmark.space.name == "micro64"
    row = benchmark.row(MICRO.from_string(table().arch[63]))
    assert (benchmark.costs[row], benchmark.reports[row]) == (1800, 100)
    assert benchmark.finals[row] == 1
    assert benchmark.space.canonical(MICRO.from_string(table().arch[63])) == benchmark.best


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"metric": "valeu"}, "metric='valeu': 'valeu' is no column. Did you mean 'value'?"),
        ({"metric": "value +"}, "metric='value \\+' is no expression"),
        ({"metric": "3"}, "is a constant, not a column"),
        ({"metric": ""}, "metric: say which column of the table that is. Columns: arch, value"),
        ({"architecture": "arc"}, "architecture='arc' is no column. Did you mean 'arch'?"),
        ({"cost": "by"}, "cost='by' must be one number"),
        ({"cost": "value - 0.5"}, "cost='value - 0.5' is -0.5 in row 0"),
        ({"space": "micro63"}, "Did you mean 'micro64'"),
    ],
)
def test_wrong_roles_name_the_argument_and_the_remedy(roles, message):
    with pytest.raises(InvalidArgument, match=message):
        read(table(), **roles)


def test_rows_that_are_no_architecture_or_come_twice_are_named():
    frame = table()
    frame.loc[5, "arch"] = "nonsense"
    with pytest.raises(InvalidArgument, match="row 5 is not of the space"):
        read_benchmark(frame, Roles("arch", "value", space="micro64"))
    frame = table()
    frame.loc[7, "arch"] = frame.loc[3, "arch"]
    with pytest.raises(InvalidArgument, match="rows 3 and 7 are both"):
        read(frame)


def test_nan_is_a_failed_evaluation_and_only_nan_is_an_error():
    values = np.linspace(0, 1, 64)
    values[63] = np.nan
    assert read(table(value=values)).finals.min() == -np.inf
    with pytest.raises(InvalidArgument, match="metric='value': the table has no number there"):
        read(table(value=np.nan))


def test_empty_tables_and_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="no rows"):
        read(table().head(0))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(InvalidArgument, match=r"x.parquet' is no Parquet file"):
        read_benchmark(tmp_path / "x.parquet", Roles("a", "b"))
    with pytest.raises(InvalidArgument, match=r"none\.parquet"):
        read_benchmark(tmp_path / "none.parquet", Roles("a", "b"))


def test_roles_in_a_yaml_beside_the_table(tmp_path):
    table().to_parquet(tmp_path / "t.parquet")
    beside = {"architecture": "arch", "metric": "value", "cost": "hours*2"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(beside))
    assert read_benchmark(tmp_path / "t.parquet", Roles()).costs[0] == 1
    assert read_benchmark(tmp_path / "t.parquet", Roles(cost="hours")).costs[0] == 0.5
    (tmp_path / "t.yaml").write_text("metrik: value")
    with pytest.raises(InvalidArgument, match="'metrik' is no role of a column"):
        read_benchmark(tmp_path / "t.parquet", Roles())


def test_of_an_incomplete_table_only_what_it_has_is_searched():
    frame = table().iloc[::7].reset_index(drop=True)
    part = read(frame).space
    rng = np.random.default_rng(0)
    has = {MICRO.canonical(MICRO.from_string(text)) for text in frame.arch}
    drawn = {part.sample(rng) for _ in range(300)}
    assert {MICRO.canonical(arch) for arch in drawn} == has
    for arch in drawn:
        assert {MICRO.canonical(n) for n in part.neighbors(arch)} <= has
        assert MICRO.canonical(part.mutate(arch, rng)) in has
        assert part.from_string(part.to_string(arch)) == arch
    assert part.size == len(frame) == len(list(part))
    missing = next(arch for arch in MICRO if MICRO.canonical(arch) not in has)
    with pytest.raises(InvalidArchitecture, match="The table has no"):
        read(frame).row(missing)


def test_an_equal_architecture_stands_in_for_one_that_is_missing():
    space = search_spaces.get("nasbench201")
    archs = [space.from_string(text) for text in (
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|",
        "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|",
    )]  # fmt: skip
    assert space.canonical(archs[0]) == space.canonical(archs[1])
    other = "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"
    frame = pd.DataFrame({"arch": [space.to_string(archs[0]), other], "value": [0.5, 0.1]})
    benchmark = read(frame, space="nasbench201")
    assert benchmark.row(archs[1]) == benchmark.row(archs[0]) == 0


def test_a_table_in_an_unknown_notation_is_a_space_of_its_words():
    frame = pd.DataFrame(
        [
            {"arch": f"conv={kernel}|act={act}|wide", "value": kernel + len(act)}
            for kernel in (3, 5, 7)
            for act in ("relu", "swish")
        ]
    )
    benchmark = read(frame)
    assert [len(d.choices) for d in benchmark.space.decisions] == [3, 2]
    for arch, row in benchmark.rows.items():
        assert benchmark.space.to_string(arch) == frame.arch[row]
    with pytest.raises(InvalidArgument, match="cannot be told apart word by word"):
        read(pd.DataFrame({"arch": ["a b", "a b c"], "value": [1, 2]}))


def test_curves_are_lists_and_the_last_epoch_counts():
    curves = [[0.1, 0.2, i / 64] for i in range(64)]
    benchmark = read(table(value=pd.Series(curves)))
    assert benchmark.epochs == 3
    assert benchmark.finals[63] == 63 / 64


def test_names_of_expressions_are_checked_like_columns():
    with pytest.raises(UnknownName, match="Did you mean 'hours'"):
        read(table(), cost="houres * 2")
