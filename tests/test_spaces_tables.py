"""Search spaces against published tables, row by row (`../shared/data`, skipped where absent)."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import search_spaces
from search_spaces.counting import count_macs, count_params
from search_spaces.modules import ReLUConvBN

torch.set_num_threads(1)

TABLES = Path(__file__).parents[2] / "shared" / "data"


@cache
def table(name: str) -> dict[str, list]:
    path = TABLES / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return pq.read_table(path).to_pydict()


def counted(space, arch, shape=(3, 32, 32), classes=10):
    network = space.build(arch, shape, classes)
    return count_params(network), count_macs(network, shape)


class TestNASBench201:
    space = search_spaces.get("nasbench201")

    @pytest.fixture
    def rows(self):
        return table("nb201")

    @pytest.fixture
    def archs(self, rows):
        return [self.space.from_string(text) for text in rows["arch"]]

    def test_classes_of_equal_cells(self, rows, archs):
        classes: dict[int, set] = {}
        for arch, representative in zip(archs, rows["iso_rep"], strict=True):
            classes.setdefault(representative, set()).add(self.space.canonical(arch))
        assert len(classes) == 6466
        assert all(len(forms) == 1 for forms in classes.values())
        assert len(set.union(*classes.values())) == 6466

    @pytest.mark.parametrize(
        ("data", "shape", "classes"),
        [("c10", (3, 32, 32), 10), ("c100", (3, 32, 32), 100)],
    )
    def test_counts_of_all_rows(self, rows, archs, data, shape, classes):
        assert [self.space.params(a, shape, classes) for a in archs] == rows[f"{data}_params"]
        assert [self.space.macs(a, shape, classes) for a in archs] == rows[f"{data}_macs"]

    def test_built_networks_have_the_counts_of_the_table(self, rows, archs):
        """With dead edges all; without them those that have none, and never more."""
        complete = search_spaces.get("nasbench201", dead_edges=True)
        equal = 0
        for i in np.random.default_rng(0).choice(len(archs), 60, replace=False):
            published = rows["c10_params"][i]
            params, macs = counted(complete, archs[i])
            assert (params, macs + 10) == (published, rows["c10_macs"][i])
            network = self.space.build(archs[i])
            alive = sum(isinstance(m, ReLUConvBN) for m in network.modules())
            built = sum(isinstance(m, ReLUConvBN) for m in complete.build(archs[i]).modules())
            assert count_params(network) <= published
            if alive == built:
                assert count_params(network) == published
                equal += 1
        assert 20 < equal < 60


class TestNATSBenchSize:
    space = search_spaces.get("natsbench_size")

    def test_counts_of_all_rows(self):
        rows = table("nats_sss")
        archs = [self.space.from_string(text) for text in rows["arch"]]
        assert len(set(archs)) == 32768
        for data, classes in (("c10", 10), ("c100", 100)):
            shape = (3, 32, 32)
            assert [self.space.params(a, shape, classes) for a in archs] == rows[f"{data}_params"]
            assert [self.space.macs(a, shape, classes) for a in archs] == rows[f"{data}_macs"]

    def test_built_networks_have_the_counts_of_the_table(self):
        rows = table("nats_sss")
        for i in np.random.default_rng(0).choice(32768, 10, replace=False):
            params, macs = counted(self.space, self.space.from_string(rows["arch"][i]))
            assert (params, macs + 10) == (rows["c10_params"][i], rows["c10_macs"][i])


class TestNASBenchMacro:
    space = search_spaces.get("nasbench_macro")

    def test_counts_of_all_rows(self):
        rows = table("nasbench_macro")
        archs = [self.space.from_string(text) for text in rows["arch"]]
        assert len(set(archs)) == 6561
        assert [self.space.params(arch) for arch in archs] == rows["params"]
        assert [self.space.macs(arch) for arch in archs] == rows["flops"]

    def test_built_networks_have_the_counts_of_the_table(self):
        rows = table("nasbench_macro")
        for i in np.random.default_rng(0).choice(6561, 10, replace=False):
            built = counted(self.space, self.space.from_string(rows["arch"][i]))
            assert built == (rows["params"][i], rows["flops"][i])

    def test_equal_networks_have_equal_results(self):
        """The benchmark trained 3,969 networks and copied their results to the others."""
        rows = table("nasbench_macro")
        results: dict = {}
        for text, accuracy in zip(rows["arch"], rows["mean_acc"], strict=True):
            form = self.space.canonical(self.space.from_string(text))
            assert results.setdefault(form, accuracy) == accuracy
        assert len(results) == 3969


class TestNASBench101:
    space = search_spaces.get("nasbench101")

    @pytest.fixture
    def rows(self):
        return table("ecnas_nb101_4epoch")

    @pytest.mark.parametrize(("name", "vertices", "number"), [("4V9E", 4, 91), ("5V9E", 5, 2532)])
    def test_small_spaces(self, rows, name, vertices, number):
        """All valid, different, with the hash and the parameters of the table; and no others."""
        hashes, forms = set(), set()
        columns = (rows[key] for key in ("space", "hash", "adjacency", "ops", "params"))
        for space, published, adjacency, operations, params in zip(*columns, strict=True):
            if space == name:
                arch = self.space.from_string(f"{adjacency}:{operations}")
                assert self.space.hash(arch) == published
                assert self.space.params(arch) == params
                hashes.add(published)
                forms.add(self.space.canonical(arch))
        assert len(hashes) == len(forms) == number
        small = search_spaces.get("nasbench101", vertices=vertices)
        assert {small.hash(arch) for arch in {small.canonical(a) for a in small}} == hashes

    def test_built_networks_have_the_parameters_of_the_table(self, rows):
        for i in np.random.default_rng(0).choice(len(rows["hash"]), 6, replace=False):
            arch = self.space.from_string(f"{rows['adjacency'][i]}:{rows['ops'][i]}")
            assert count_params(self.space.build(arch)) == rows["params"][i]

    def test_example_of_the_benchmark(self):
        """The cell of the benchmark's README (google-research/nasbench)."""
        matrix = "0111010 0000001 0000001 0000100 0000001 0000001 0000000".replace(" ", "")
        conv1, conv3, pool = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
        operations = ["input", conv1, conv3, conv3, conv3, pool, "output"]
        arch = self.space.from_string(f"{matrix}:{','.join(operations)}")
        assert self.space.params(arch) == 2694282

    def test_hash_and_canonical_form_tell_the_same_apart(self):
        rng = np.random.default_rng(0)
        by_hash: dict[str, set] = {}
        for _ in range(3000):
            arch = self.space.sample(rng)
            by_hash.setdefault(self.space.hash(arch), set()).add(self.space.canonical(arch))
        assert all(len(forms) == 1 for forms in by_hash.values())
        assert len(set.union(*by_hash.values())) == len(by_hash)

    def test_relabelled_cells_are_equal(self):
        """All orders of the inner vertices in which edges still lead forwards."""
        rng = np.random.default_rng(1)
        for _ in range(60):
            arch = self.space.sample(rng)
            cell = self.space.cell(arch)
            inner = range(1, len(cell.matrix) - 1)
            for order in itertools.permutations(inner):
                other = cell.arranged([0, *order, len(cell.matrix) - 1])
                if all(not other.matrix[i][j] for i in range(len(cell.matrix)) for j in range(i)):
                    assert other.canonical() == cell.canonical()
                    assert sorted(other.vertex_hashes()) == sorted(cell.vertex_hashes())

    @pytest.mark.parametrize(
        ("text", "position", "wanted"),
        [
            ("010:input,output", 3, "'0'"),
            ("01000:input,output", 0, "a square matrix"),
            ("010101000:input,maxpool3x3,output", 3, "0, for edges lead"),
            ("010001000:input,maxpool5x5,output", 16, "maxpool3x3"),
            ("010001000:input,output", 16, "maxpool3x3"),
            ("010001000:input,maxpool3x3,output,", 33, "the end"),
        ],
    )
    def test_errors_point_at_the_position(self, text, position, wanted):
        with pytest.raises(search_spaces.errors.InvalidArchitecture) as error:
            self.space.from_string(text)
        assert f"at position {position}, wanted" in str(error.value)
        assert wanted in str(error.value)

    def test_too_many_edges_and_no_path(self):
        for text in ("0" * 9 + ":input,maxpool3x3,output", f"{'0' * 49}:input"):
            with pytest.raises(search_spaces.errors.InvalidArchitecture):
                self.space.from_string(text)
        full = "".join(str(int(i < j)) for i in range(5) for j in range(5))
        with pytest.raises(search_spaces.errors.InvalidArchitecture, match="not valid"):
            self.space.from_string(f"{full}:input,maxpool3x3,maxpool3x3,maxpool3x3,output")
