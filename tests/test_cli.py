"""The command line: the verbs on a finished run, and one clear line for every mistake."""

import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import raynas
from raynas.cli import app, main
from raynas.cli.flags import read_flags
from raynas.config.config import Config, validated


@pytest.fixture
def fails(monkeypatch, capsys, tmp_path):
    """Run a command that must fail before anything starts; what it says."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["raynas", *map(str, arguments)])
        capsys.readouterr()  # what earlier calls said
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 2
        assert not (tmp_path / "runs" / "x").exists()
        return capsys.readouterr().err

    return run


@pytest.fixture
def run_fails(fails, tmp_path):
    def run(*arguments):
        return fails("run", "--storage-path", tmp_path / "runs", "--name", "x", *arguments)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "nasbench2O1"], "space='nasbench2O1' is unknown. Did you mean 'nasbench201'?"),
        (["--search", "evolutoin"], "search='evolutoin' is unknown. Did you mean 'evolution'?"),
        (["--scheduler", "ahsa"], "scheduler='ahsa' is unknown. Did you mean 'asha'?"),
        (["--data", "cifar1O"], "Did you mean 'cifar10'?"),
        (["--data", "no/such/folder"], "no such folder or file"),
        (["--samples", "0"], "samples=0"),
        (["--epochs", "-1"], "epochs=-1"),
        (["--seed", "-1"], "seed=-1"),
        (["--space", "nasbench201:chanels=3"], "Did you mean 'channels'?"),
        (["--resume", "must"], "holds no run"),
        (["--target", "0.9"], "target='0.9': give a metric and a number"),
        (["--target", "val_accuracy="], "target='val_accuracy=': give a metric and a number"),
        (["--keep-checkpoints", "-1"], "keep_checkpoints='-1': give a whole number"),
        (["--storage-path", "ftp://host"], "storage_path='ftp://host'"),
        (["--name", "../up"], "name='../up'"),
        (["--name", "n" * 300], "at most 200"),
        (["--data", "folder"], "the option 'path' is missing"),
        (["--data", "parquet"], "the option 'path' is missing"),
        (["--cpus-per-trial", "0.00001"], "cpus_per_trial"),
    ],
)
def test_mistakes_are_named(run_fails, arguments, message):
    error = run_fails(*arguments)
    assert message in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("local_ray")
def test_more_gpus_than_there_are(run_fails):
    error = run_fails("--gpus-per-trial", "3")
    assert "gpus_per_trial=3" in error
    assert "0 GPUs" in error


@pytest.mark.usefixtures("local_ray")
def test_a_storage_path_that_cannot_be_written(fails, tmp_path):
    (tmp_path / "file").write_text("")
    error = fails("run", "--storage-path", tmp_path / "file", "--name", "y")
    assert "cannot be written" in error or "not a folder" in error


def test_bad_images_are_counted_and_the_first_named(run_fails, image_folder):
    (image_folder / "dark" / "003.png").write_bytes(b"no image")
    (image_folder / "light" / "001.png").write_bytes(b"")
    error = run_fails("--data", image_folder)
    assert "2" in error
    assert "003.png" in error


def one_line(error):
    assert error.startswith("raynas: ")
    assert error.count("\n") == 1
    return error


def small_parquet(path, labels):
    """A Parquet file of small images with these labels."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    pq.write_table(pa.table({"image": [buffer.getvalue()] * len(labels), "label": labels}), path)
    return path


def test_unusable_data_is_one_line(run_fails, tmp_path):
    gaps = small_parquet(tmp_path / "gaps.parquet", [0, 1, 3] * 8)
    assert "not 0..n-1" in one_line(run_fails("--data", gaps))
    one = small_parquet(tmp_path / "one.parquet", [0] * 24)
    assert "one class" in one_line(run_fails("--data", one))
    (tmp_path / "empty").mkdir()
    assert "no class folders" in one_line(run_fails("--data", tmp_path / "empty"))
    (tmp_path / "broken.parquet").write_bytes(gaps.read_bytes()[:-50])
    assert "cannot be read as Parquet" in one_line(run_fails("--data", tmp_path / "broken.parquet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sampels: 3", "Did you mean 'samples'?"),
        (b"3: 4", "no argument 3"),
        (b"name: \xff\xfe", "cannot be read"),
        (b"- a list", "must be a mapping"),
    ],
)
def test_a_wrong_configuration_file_is_one_line(run_fails, tmp_path, content, message):
    (tmp_path / "run.yaml").write_bytes(content)
    assert message in one_line(run_fails("--config", tmp_path / "run.yaml"))


def test_a_name_that_is_a_file(fails, tmp_path):
    (tmp_path / "x").write_text("")
    error = fails("run", "--storage-path", tmp_path, "--name", "x")
    assert "is not a run folder" in one_line(error)


def test_places_that_cannot_be_written(finished, fails, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in one_line(
        fails("export", finished.path, "--to", tmp_path / "file" / "folder")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nasbench201.png").mkdir()
    architecture = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    error = fails("spaces", "nasbench201", "--draw", architecture)
    assert "nasbench201.png cannot be written" in one_line(error)


def test_not_a_run_folder(fails, tmp_path):
    assert "not a run folder" in fails("status", tmp_path)


def test_status_and_export(finished, tmp_path):
    runner = CliRunner()
    status = json.loads(runner.invoke(app, ["status", str(finished.path), "--json"]).stdout)
    assert status["state"] == "finished"
    assert status["best"]["architecture"] == finished.best.architecture
    made = runner.invoke(app, ["export", str(finished.path), "--to", str(tmp_path)])
    assert made.exit_code == 0
    assert (tmp_path / "model.pt2").exists()
    classes = json.loads((tmp_path / "architecture.json").read_text())["class_names"]
    assert classes == [str(digit) for digit in range(10)]


def test_a_run_from_its_own_yaml(finished, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["raynas", "run", "--config", str(finished.path / "run.yaml"), "--json"]
    )
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["architecture"] == finished.best.architecture
    assert set(yaml.safe_load((finished.path / "run.yaml").read_text())) >= set(Config.model_fields)


def test_spaces():
    rows = json.loads(CliRunner().invoke(app, ["spaces", "--json"]).stdout)
    sizes = {row["name"]: row["size"] for row in rows}
    assert sizes["nasbench201"] == 15625


def test_every_argument_is_a_flag():
    text = subprocess.run(
        [sys.executable, "-m", "raynas", "run", "--help"], capture_output=True, text=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
    ).stdout  # fmt: skip
    assert all("--" + name.replace("_", "-") in text for name in Config.model_fields)


@pytest.mark.parametrize(
    ("flags", "called", "without"),
    [
        (read_flags("raynas.ensemble.saep:SAEP"), raynas.SAEP, set()),
        (read_flags("raynas.benchmarking.bench:bench", without=("jobs",)), raynas.bench, {"jobs"}),
        (read_flags("raynas.drivers.scoring:score", without=("path",)), raynas.score, {"path"}),
    ],
)
def test_flags_are_what_is_called(flags, called, without):
    parameters = inspect.signature(called).parameters
    assert {f.argument: f.default for f in flags} == {
        name: p.default for name, p in parameters.items() if name not in without
    }
    assert all(flag.help for flag in flags)


def test_flags_have_types_and_descriptions():
    flags = {flag.argument: flag for flag in read_flags("raynas.ensemble.saep:SAEP")}
    kinds = {name: flag.kind for name, flag in flags.items()}
    assert kinds == {
        "rule": str, "size": int, "alpha": float, "tolerance": float, "combine": str,
        "temperature": bool, "stopped": bool,
    }  # fmt: skip
    assert flags["size"].help == "how many members to keep; default: as few as `tolerance` allows"
    table = next(flag for flag in read_flags("raynas.benchmarking.bench:bench"))
    assert (table.argument, table.kind) == ("table", Path)


def test_flags_reach_what_is_called(monkeypatch, tmp_path):
    calls = []

    def record(*arguments, **options):
        calls.append((arguments, options))
        raise raynas.RaynasError("enough")

    monkeypatch.setattr(raynas, "bench", record)
    monkeypatch.setattr(raynas, "score", record)
    runner = CliRunner()
    runner.invoke(app, ["bench", "--json", "--time-budget", "9", "--no-unique", "--search", "area"])
    runner.invoke(app, ["bench", "--figure", "best.png", "--runs", "3", "--jobs", "5"])
    runner.invoke(app, ["score", "--samples", "7", "--to", str(tmp_path / "scores.parquet")])
    runner.invoke(app, ["score", "--architecture", "a", "--architecture", "b"])
    everywhere = {"jobs": os.cpu_count(), "figure": None}
    assert calls == [
        ((), {"time_budget": 9.0, "unique": False, "search": "area", **everywhere}),
        ((), {"runs": 3, "queries": 100, "jobs": 5, "figure": Path("best.png")}),
        ((), {"architectures": 7, "path": tmp_path / "scores.parquet"}),
        ((), {"architectures": ["a", "b"]}),
    ]


def test_limits_of_a_search_are_flags(monkeypatch):
    given = []
    monkeypatch.setattr(raynas, "run", lambda **arguments: given.append(arguments))
    CliRunner().invoke(app, ["run", "--gpu-hours", "2.5", "--target", "val_accuracy=0.95"])
    assert given == [{"gpu_hours": 2.5, "target": "val_accuracy=0.95"}]
    assert validated(given[0]).target == {"val_accuracy": 0.95}


def test_the_command_line_goes_before_the_file(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(raynas, "run", lambda **arguments: given.update(arguments))
    (tmp_path / "run.yaml").write_text("samples: 5\nepochs: 2\nname: null\n")
    arguments = ["run", "--config", str(tmp_path / "run.yaml"), "--samples", "32"]
    CliRunner().invoke(app, arguments)
    assert given == {"samples": 32, "epochs": 2, "name": None}
