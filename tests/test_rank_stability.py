"""How far a supernet's ranking can be trusted."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import kendalltau

import raynas
import search_spaces
from benchmarks.weight_sharing import published
from raynas.errors import InvalidArgument
from raynas.record.events import Finished, Reported, Status, Suggested
from raynas.record.journal import Journal
from raynas.reports.rank_stability import section
from raynas.understanding.rank_measures import gt_tau, random_std, s_tau, tau_interval, top_n_rank

MICRO = search_spaces.get("micro64")


@pytest.fixture
def truth():
    table = published()
    assert list(table.index) == [MICRO.to_string(arch) for arch in MICRO]
    return table


class TestMeasures:
    def test_calibrated_on_the_published_ground_truth(self, truth):
        mean, std = truth["mean"].to_numpy(), truth["std"].to_numpy()
        assert gt_tau(mean, mean) == pytest.approx(1)
        assert top_n_rank(mean, mean, 1) == 1
        rng = np.random.default_rng(0)
        gt, s, first, third = [], [], [], []
        for _ in range(10):
            rankings = rng.normal(mean, std, (10, 64))
            gt.append(np.mean([gt_tau(row, mean) for row in rankings]))
            s.append(s_tau(rankings).mean)
            first.append(np.mean([top_n_rank(row, mean, 1) for row in rankings]))
            third.append(np.mean([top_n_rank(row, mean, 3) for row in rankings]))
        assert np.mean(gt) == pytest.approx(0.789, abs=0.03)
        assert np.mean(s) == pytest.approx(0.720, abs=0.03)
        assert 3 < np.mean(first) < 9
        assert 1 < np.mean(third) < 4

    def test_random_rankings_agree_by_chance_only(self):
        rankings = np.random.default_rng(1).random((40, 64))
        found = s_tau(rankings)
        assert found.mean == pytest.approx(0, abs=0.02)
        assert found.least < -0.2 < 0.2 < found.most
        taus = [kendalltau(*np.random.default_rng(i).random((2, 64))).statistic for i in range(500)]
        assert np.std(taus) == pytest.approx(random_std(64), rel=0.1)
        assert random_std(64) == pytest.approx(0.086, abs=5e-4)

    def test_what_has_no_value_ranks_lowest(self):
        assert gt_tau([math.nan, 1, 2], [0, 1, 2]) == pytest.approx(1)
        assert gt_tau([-math.inf, 1, 2], [2, 1, 0]) == pytest.approx(-1)
        assert top_n_rank([math.nan, 1, 2], [9, 1, 2], 1) == 2

    def test_a_constant_ranking_tells_nothing_in_any_order(self):
        assert gt_tau([1, 1, 1], [1, 2, 3]) == 0
        assert tau_interval([1, 1, 1], [1, 2, 3]) == (0, 0)
        assert s_tau([[1, 1, 1], [1, 2, 3]]).mean == 0
        assert top_n_rank([2, 3, 1], [5, 5, 1], 1) == 1
        assert top_n_rank([1, 1, 1], [1, 2, 3], 1) == top_n_rank([1, 1, 1], [3, 2, 1], 1) == 3
        with pytest.raises(InvalidArgument, match="2 numbers for 3 values"):
            gt_tau([1, 2, 3], [1, 2])

    def test_intervals_cover_the_true_tau(self):
        """Of pairs of normal variables with correlation r, tau is 2/pi arcsin r."""
        r, covered = 0.5, 0
        expected = 2 / math.pi * math.asin(r)
        for i in range(200):
            x, y = np.random.default_rng(i).multivariate_normal([0, 0], [[1, r], [r, 1]], 60).T
            low, high = tau_interval(x, y, seed=i, draws=300)
            covered += low <= expected <= high
        assert 0.9 <= covered / 200 <= 0.99

    def test_s_tau_needs_two_and_gives_an_interval_from_three(self):
        rankings = np.random.default_rng(0).random((4, 20)) + np.arange(20) / 20
        assert math.isnan(s_tau(rankings[:2]).low)
        found = s_tau(rankings)
        assert found.low < found.mean < found.high
        assert found.least <= found.mean <= found.most
        with pytest.raises(InvalidArgument, match="1 instance"):
            s_tau(rankings[:1])


def run_folder(folder, values, space="micro64", noise=0.0, seed=0, evaluate="supernet", epochs=3):
    """A run folder with the rankings of {notation: accuracy}."""
    (folder / "supernet").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = [
        (kind, offset, name, value + noise * rng.normal())
        for kind, count in (("batch", 4), ("epoch", epochs), ("final", 1))
        for offset in range(count)
        for name, value in values.items()
    ]
    frame = pd.DataFrame(rows, columns=["kind", "offset", "architecture", "accuracy"])
    frame.to_parquet(folder / "supernet" / "rankings.parquet")
    config = {"space": space, "evaluate": evaluate}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


class TestRuns:
    def test_a_ranking_equal_to_the_truth_is_trusted(self, truth, tmp_path):
        values = (truth["mean"] / 100).to_dict()
        found = raynas.rank_stability(run_folder(tmp_path / "a", values), truth["mean"])
        assert found.architectures == found.compared == 64
        assert found.tau.value == pytest.approx(1)
        assert found.tau_batches == pytest.approx((1, 1, 1))
        assert found.epochs.mean == found.batches.mean == pytest.approx(1)
        assert found.top_rank == {1: 1, 3: 1, 10: 1}
        assert "about as good as one training of each" in found.verdict
        assert "GT-Tau" in str(found)

    @pytest.mark.parametrize(
        ("noise", "verdict"),
        [(0.005, "shortlist"), (0.03, "discard the worst half"), (9.0, "do not use it")],
    )
    def test_the_worse_the_ranking_the_less_it_is_trusted(self, truth, tmp_path, noise, verdict):
        values = (truth["mean"] / 100).to_dict()
        folder = run_folder(tmp_path / "a", values, noise=noise, seed=3)
        found = raynas.rank_stability(folder, truth["mean"].to_dict())
        assert verdict in found.verdict
        assert "changes between mini-batches" in found.verdict

    def test_kinds_of_rankings_may_be_of_any_number(self, truth, tmp_path):
        values = (truth["mean"] / 100).to_dict()
        for epochs in (0, 1, 7):
            folder = run_folder(tmp_path / str(epochs), values, epochs=epochs)
            found = raynas.rank_stability(folder, truth["mean"])
            assert found.tau_batches.value == pytest.approx(1)
            assert (found.epochs is None) == (epochs < 2)

    def test_several_runs_are_compared(self, truth, tmp_path):
        values = (truth["mean"] / 100).to_dict()
        folders = [run_folder(tmp_path / str(i), values, noise=0.005, seed=i) for i in range(3)]
        found = raynas.rank_stability(folders)
        assert 0.3 < found.runs.mean < 0.9
        assert found.tau is None
        assert "truth is not known" in found.verdict
        assert raynas.rank_stability(folders, truth["mean"]).compared == 64

    def test_what_is_over_rated_is_found(self, truth, tmp_path):
        values = {
            name: value / 100 + (0.05 if name[1] == "1" else 0)
            for name, value in truth["mean"].items()
        }
        folder = run_folder(tmp_path / "a", values)
        first = raynas.rank_stability(folder, truth["mean"]).operations.iloc[0]
        assert (first["decision"], first["choice"]) == ("edge_0_2", "max_pool_3x3")
        assert first["architectures"] == 16
        assert 0 < first["low"] < first["over_rated"] < first["high"]

    def test_trials_that_were_trained_alone_are_a_truth(self, truth, tmp_path):
        values = (truth["mean"] / 100).head(8).to_dict()
        folder = run_folder(tmp_path / "a", values)
        other = tmp_path / "b"
        other.mkdir()
        (other / "run.yaml").write_text(yaml.safe_dump({"space": "micro64", "evaluate": "train"}))
        with Journal(other) as journal:
            for i, (name, value) in enumerate(values.items()):
                journal.append(Suggested(i, name))
                journal.append(Reported(i, {"val_accuracy": value}))
                journal.append(Finished(i, Status.COMPLETED))
        found = raynas.rank_stability(folder, raynas.load(other))
        assert found.compared == 8
        assert found.tau.value == pytest.approx(1)
        with pytest.raises(InvalidArgument, match="no architectures that were trained alone"):
            raynas.rank_stability(folder, run_folder(tmp_path / "c", values))

    def test_a_known_value_counts_more_than_that_of_an_equal_cell(self, tmp_path):
        space = search_spaces.get("nasbench201")
        arch = space.from_string(
            "|skip_connect~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|"
        )
        names = [space.to_string(space.canonical(arch)), space.to_string(arch)]
        names += [space.to_string(a) for a in list(space)[:6]]
        values = {name: i / 10 for i, name in enumerate(names)}
        found = raynas.rank_stability(run_folder(tmp_path / "a", values, "nasbench201"), values)
        assert found.tau.value == pytest.approx(1)

    def test_one_probe_is_reported_without_a_measure(self, tmp_path):
        folder = run_folder(tmp_path / "a", {"111": 0.5})
        assert "1 architectures" in section(folder)

    def test_a_table_is_a_truth(self, tmp_path):
        table = raynas.Table("trials/tables/digits-nb201.parquet")
        benchmark = table.benchmark()
        space = search_spaces.get("nasbench201")
        values = {
            space.to_string(arch): float(benchmark.curves[row][-1])
            for arch, row in list(benchmark.rows.items())[:30]
        }
        folder = run_folder(tmp_path / "a", values, "nasbench201")
        for truth in (table, f"table:{table.file}"):
            found = raynas.rank_stability(folder, truth)
            assert found.compared == 30
            assert found.tau.value == pytest.approx(1)

    def test_a_users_space_is_matched_by_notation(self, tmp_path):
        values = {f"a={i}": i / 10 for i in range(6)}
        folder = run_folder(tmp_path / "a", values, "my.Space")
        assert raynas.rank_stability(folder, values).tau.value == pytest.approx(1)

    def test_the_report_has_a_section(self, truth, tmp_path):
        folder = run_folder(tmp_path / "a", (truth["mean"] / 100).to_dict(), noise=0.01)
        assert "S-Tau, last epochs" in section(folder)
        assert section(tmp_path) == ""

    def test_bad_input(self, truth, tmp_path):
        values = (truth["mean"] / 100).to_dict()
        folder = run_folder(tmp_path / "a", values)
        other = run_folder(tmp_path / "b", dict(list(values.items())[:9]))
        with pytest.raises(InvalidArgument, match="ranks other architectures"):
            raynas.rank_stability([folder, other])
        with pytest.raises(InvalidArgument, match="truth: has 2 of the 64"):
            raynas.rank_stability(folder, {"111": 1.0, "222": 2.0})
        with pytest.raises(InvalidArgument, match="truth=3"):
            raynas.rank_stability(folder, 3)
        path = other / "supernet" / "rankings.parquet"
        rows = pd.read_parquet(path)
        rows[rows["kind"] != "final"].to_parquet(path)
        with pytest.raises(InvalidArgument, match="no final ranking"):
            raynas.rank_stability(other)
        path.write_bytes(b"not a table")
        assert "cannot be read" in section(other)
        with pytest.raises(InvalidArgument, match="runs: none"):
            raynas.rank_stability([])
        with pytest.raises(InvalidArgument, match="cannot be read"):
            raynas.rank_stability(other)
        path.unlink()
        with pytest.raises(InvalidArgument, match=r"has no supernet.rankings\.parquet"):
            raynas.rank_stability(other)
