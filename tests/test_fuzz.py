"""Broken arguments, run folders, journals and data: a refusal or an answer, never a traceback.

Whatever is not a `RaynasError` fails these tests, and so does what takes too long.
"""

import io
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from recorded_runs import unpack

import raynas
from raynas.config.config import Config
from raynas.config.resolve import resolve
from raynas.errors import RaynasError
from trials.data import load

MANY = settings(
    max_examples=300, deadline=20_000, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.sampled_from([0, -1, 1, 2**63, 1e300, 1e-300])
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from([
        "", ":", "=", "a:b=c", "nasbench201:channels=-1", "darts:cells=x", "asha:grace=0", "../..",
        "train:epoch_seconds=nan", "auto:initial=1e9", "s3://", "file:///", "~", "/dev/null", "\0",
        "limit:of=macs", "table:/nowhere", "parquet:/nowhere", "digits:fraction=2", "20 minutes",
        "convnet", "random", "naswot:1", "saep:rule=greedy,size=0", "mlflow:experiment=",
    ]),
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS, TEXTS, st.none(), st.lists(st.one_of(NUMBERS, TEXTS), max_size=3),
    st.dictionaries(TEXTS, NUMBERS, max_size=2), st.binary(max_size=8),
)  # fmt: skip


@given(
    arguments=st.dictionaries(
        st.sampled_from([*sorted(Config.model_fields), "sample"]), VALUES, max_size=4
    )
)
@MANY
def test_arguments(arguments, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "arguments"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        with refused_or_not():
            assert resolve({"storage_path": path, **arguments}).config.name
    assert not path.exists()  # nothing has started


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a growing ensemble."""
    return unpack("adanet", tmp_path_factory.mktemp("run"))


def told(path):
    """Ask a run folder for everything that people ask it for."""
    result = raynas.load(path)
    assert isinstance(result.config, dict)
    assert isinstance(result.finished, bool)
    assert len(result.trials) == len(result.history.evaluations)
    assert result.best.architecture
    assert result.best.metrics is not None


@contextmanager
def refused_or_not():
    """Let errors pass that are meant for people."""
    try:
        yield
    except RaynasError as error:
        if not str(error):
            raise AssertionError("an error without a word") from error


#: What may happen to bytes: some are cut out, some come in, some are others, the end is gone.
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "replace", "truncate", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=3,
)


def damaged(content, damages):
    """Return bytes with damages."""
    for kind, where, new in damages:
        at = int(where * len(content))
        until = at + len(new)
        content = {
            "cut": content[:at] + content[until:],
            "insert": content[:at] + new + content[at:],
            "replace": content[:at] + new + content[until:],
            "truncate": content[:at],
            "repeat": content[:at] + content[at : at + 200] + content[at:],
        }[kind]
    return content


@given(
    name=st.sampled_from(["journal/events.jsonl", "run.yaml", "best/architecture.json"]),
    damages=DAMAGES,
)
@MANY
def test_files_of_a_run_that_are_damaged(run, name, damages):
    path, whole = run / name, (run / name).read_bytes()
    try:
        path.write_bytes(damaged(whole, damages))
        with refused_or_not():
            told(run)
    finally:
        path.write_bytes(whole)


@given(
    number=st.integers(0, 10**6),
    key=st.sampled_from(["evaluation", "metrics", "status", "architecture", "event", "time"]),
    value=VALUES.filter(lambda value: not isinstance(value, bytes)),
)
@MANY
def test_events_with_other_values(run, number, key, value):
    path = run / "journal/events.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    number %= len(lines)
    lines[number] = json.dumps({**json.loads(lines[number]), key: value})
    try:
        path.write_text("\n".join(lines) + "\n")
        with refused_or_not():
            told(run)
    finally:
        path.write_text(whole)


@given(key=st.sampled_from(sorted(Config.model_fields)), value=VALUES)
@MANY
def test_configurations_with_other_values(run, key, value):
    path = run / "run.yaml"
    whole = path.read_text()
    try:
        path.write_text(yaml.safe_dump({**yaml.safe_load(whole), key: value}))
        with refused_or_not():
            told(run)
        with refused_or_not():
            then = raynas.load(run).config
            resolve({**then, "storage_path": str(run.parent), "name": run.name})
    finally:
        path.write_text(whole)


def pictures(folder):
    """Write a folder of two classes with four pictures each."""
    rng = np.random.default_rng(0)
    for number in range(8):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return folder


def table(path):
    """Write a Parquet file of ten images."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "png")
    images = [{"bytes": buffer.getvalue(), "path": None}] * 10
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 5}), path)
    return path


@given(damages=DAMAGES, number=st.integers(0, 7))
@MANY
def test_pictures_that_are_damaged(damages, number):
    with tempfile.TemporaryDirectory() as name:
        path = sorted(pictures(Path(name)).glob("*/*.png"))[number]
        path.write_bytes(damaged(path.read_bytes(), damages))
        with refused_or_not():
            assert load(name, seed=0).input_shape == (3, 9, 9)


@given(damages=DAMAGES)
@MANY
def test_parquet_files_that_are_damaged(damages):
    with tempfile.TemporaryDirectory() as name:
        path = table(Path(name) / "images.parquet")
        path.write_bytes(damaged(path.read_bytes(), damages))
        with refused_or_not():
            load(str(path), seed=0)
