"""Tabular benchmarks: what is read, what is refused."""

import sys
import types

import numpy as np
import pandas as pd
import pytest
import yaml

import search_spaces
from search_spaces.errors import InvalidArchitecture, InvalidArgument, RaynasError, UnknownName
from trials.tables.benchmark import Roles, read_benchmark
from trials.tables.nats_bench import convert

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
        ({"metric": "value.foo"}, "metric='value.foo' is no expression"),
        ({"metric": "lambda x: x"}, "is no expression"),
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


@pytest.mark.parametrize(
    "value", ["text", {"a": 1}, 10**400, np.inf, [[1.0], [2.0]], pd.Timestamp(0)]
)
def test_what_is_no_number_is_named_with_its_row(value):
    values = pd.Series([0.5] * 64, dtype=object)
    values[9] = value
    with pytest.raises(InvalidArgument, match=r"metric='value' is .* in row 9"):
        read(table(value=values))


@pytest.mark.parametrize("value", [None, pd.NA, [], float("nan")])
def test_nothing_is_a_failed_evaluation(value):
    values = pd.Series([0.5] * 64, dtype=object)
    values[9] = value
    assert read(table(value=values)).finals[9] == -np.inf


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
    for text in (
        "[1, 2]",
        "5",
        "metric: [a]",
        "5: 6",
        "metric: {",
        b"\xff\xfe\x00".decode("latin1"),
    ):
        (tmp_path / "t.yaml").write_text(text, encoding="latin1")
        with pytest.raises(InvalidArgument, match=r"t\.yaml"):
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


class OfficialApi:
    """What `nats_bench.create` returns, as far as its documentation promises: three cells."""

    archs = (
        "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    )
    avaliable_hps = ("12", "200")

    def __len__(self):
        return len(self.archs)

    def arch(self, index):
        return self.archs[index]

    def get_cost_info(self, index, dataset):
        return {"params": 0.1 + index, "flops": 2.5}

    def get_more_info(self, index, dataset, hp, is_random):
        assert is_random is False
        info = {"train-all-time": 10.0 * int(hp), "test-accuracy": 50.0 + index + int(hp) / 1000}
        if dataset != "cifar10":  # trained on all images, it has no validation part
            info["valid-accuracy"] = 40.0 + index
        return info


def test_official_files_become_a_table_with_roles(tmp_path, monkeypatch):
    package = types.ModuleType("nats_bench")
    package.create = lambda *arguments, **options: OfficialApi()
    monkeypatch.setitem(sys.modules, "nats_bench", package)
    source = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    source.mkdir()
    path = convert(source, tmp_path / "nats.parquet")
    benchmark = read_benchmark(path, Roles())
    assert benchmark.space.name == "nasbench201"
    assert benchmark.finals.tolist() == [40.0, 41.0, 42.0]
    assert benchmark.reports.tolist() == [50.2, 51.2, 52.2]
    assert benchmark.costs.tolist() == [120.0] * 3
    assert benchmark.frame["cifar10_params"].tolist() == pytest.approx([1e5, 1.1e6, 2.1e6])
    with pytest.raises(InvalidArgument, match="does not exist"):
        convert(tmp_path / "nowhere-tss", path)
    (tmp_path / "NATS").mkdir()
    with pytest.raises(InvalidArgument, match=r"say tss \(topology\) or sss"):
        convert(tmp_path / "NATS", path)


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(RaynasError, match="pip install nats_bench"):
        convert(tmp_path, tmp_path / "x.parquet")
