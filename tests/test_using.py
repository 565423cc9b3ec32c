"""The winner at work: what it takes, predictions, exports without raynas, retraining."""

import html
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from recorded_runs import unpack
from safetensors.torch import load_file
from typer.testing import CliRunner

import raynas
import search_spaces
from raynas.cli import app
from raynas.record import models
from raynas.reports import usage
from raynas.retraining import RECIPES
from search_spaces.naming import construct, parse
from trials import EVALUATORS, Train
from trials.data import load
from trials.data.scaling import Scaling
from trials.deployed import ImageClassifier
from trials.places import place
from trials.resampling import resized

DOCS = Path(__file__).parents[1] / "docs"
WITHOUT_RAYNAS = "import sys\nsys.modules.update(raynas=None, trials=None, search_spaces=None)\n"


def write_run(folder, data, epochs=1, formats=("weights",)):
    """Write what of a run folder the winner needs; its network is trained a little."""
    space = search_spaces.get("nasbench201:channels=4,cells=1")
    arch = space.from_string(
        "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    )
    trial = Train(batch_size=8).trial(space, arch, data, epochs, 0, torch.device("cpu"))
    for _ in range(epochs):
        trial.step()
    content = {"space": "nasbench201:channels=4,cells=1", "architecture": space.to_string(arch)}
    content |= models.description(data)
    best = folder / "best"
    models.export(models.classifier(trial.network, content), content, best, formats)
    (best / "architecture.json").write_text(json.dumps(content))
    (best / "metrics.json").write_text("{}")
    (folder / "run.yaml").write_text("recorded: {}")
    return raynas.load(folder)


@pytest.fixture
def used(image_folder, tmp_path):
    """A run with a network that tells dark images from light ones."""
    return write_run(tmp_path / "run", load(image_folder), epochs=8)


def photo(path, level, size=(30, 20), mode="RGB", **options):
    """Write an image of one brightness."""
    Image.new("L", size, level).convert(mode).save(path, **options)
    return path


# --- images of any size


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(8, 8), (12, 9), (16, 30)])
def test_images_are_scaled_as_pillow_does(size, fit):
    rng = np.random.default_rng(0)
    for shape in [(8, 8), (20, 30), (30, 20), (5, 9), (33, 8), (224, 300), (12, 9), (16, 30)]:
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        expected = np.asarray(Scaling(size, fit)(Image.fromarray(pixels))) / 255
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        scaled = resized(images, size, fit)[0].permute(1, 2, 0).numpy()
        # 8 bits after each of two passes, and a sum that is rounded twice
        atol = 1e-6 if shape == size else 1.01 / 255
        np.testing.assert_allclose(scaled, expected, rtol=0, atol=atol)


# --- what the network takes


def test_images_of_another_range_or_kind_are_refused(used):
    model = used.best.model()
    images = torch.rand(2, 3, 8, 8)
    whole = (images * 255).round()
    with pytest.raises(raynas.InvalidArgument, match=r"0 to 2.*takes 0..1: divide them by 255"):
        model(whole)
    with pytest.raises(raynas.InvalidArgument, match="without normalization"):
        model((images - 0.5) / 0.25)
    with pytest.raises(raynas.InvalidArgument, match="give batch x 3 x height x width"):
        model(images[:, :1])
    with pytest.raises(raynas.InvalidArgument, match="int64; give uint8 or floats"):
        model(whole.long())
    torch.testing.assert_close(model(whole.byte()), model(whole / 255))
    torch.testing.assert_close(
        model(torch.rand(1, 3, 50, 31) * 0 + 0.3), model(torch.full((1, 3, 8, 8), 0.3))
    )


def test_numbers_in_the_users_own_units_are_taken_as_they_are(tmp_path):
    images = np.random.default_rng(0).normal(0, 50, (40, 8, 8, 2)).astype(np.float32)
    result = write_run(tmp_path / "run", load((images, np.arange(40) % 2)))
    content = json.loads((result.path / "best" / "architecture.json").read_text())
    assert content["input_range"] is None
    assert content["fit"] is None
    model = result.best.model()
    logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert logits.isfinite().all()
    found = result.best.predict(images)
    assert [p.label for p in found] == [str(k) for k in logits.argmax(1).tolist()]
    with pytest.raises(raynas.InvalidArgument, match=r"beyond 0..1.*give arrays"):
        result.best.predict(photo(tmp_path / "a.png", 9))


def test_a_folder_of_an_older_version_is_read(tmp_path):
    """It says nothing of range and fit but in words."""
    result = raynas.load(unpack("area", tmp_path))
    content = json.loads((result.path / "best" / "architecture.json").read_text())
    assert "input_range" not in content
    image = photo(tmp_path / "a.png", 90)
    (prediction,) = result.best.predict(image)
    assert prediction.label in content["class_names"]
    with pytest.raises(raynas.InvalidArgument, match=r"takes 0\.\.1"):
        result.best.model()(torch.full((1, 1, 8, 8), 16.0))


# --- predictions


def test_files_of_all_kinds_and_sizes_are_told_apart(used, tmp_path):
    folder = tmp_path / "new"
    (folder / "below").mkdir(parents=True)
    files = {
        photo(folder / "a.png", 30, (8, 8)): "dark",
        photo(folder / "b.jpg", 220, (300, 200)): "light",
        photo(folder / "below" / "c.webp", 215, (9, 70)): "light",
        photo(folder / "d.tiff", 35, (50, 50), "CMYK"): "dark",
        photo(folder / "e.gif", 210, (11, 11), "P"): "light",
        photo(folder / "f.png", 25, (40, 20), "LA"): "dark",
    }
    (folder / "notes.txt").write_text("no image")
    found = used.best.predict(folder)
    assert {p.image: p.label for p in found} == {str(k): v for k, v in files.items()}
    for prediction in found:
        assert set(prediction.probabilities) == {"dark", "light"}
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.probability == max(prediction.probabilities.values())
        assert prediction.probabilities[prediction.label] == prediction.probability
    assert used.best.predict([str(path) for path in files]) == [
        next(p for p in found if p.image == str(path)) for path in files
    ]


def test_files_are_read_as_in_the_training(tmp_path):
    """Scaled by `fit`, and upright by their EXIF data."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    for k in range(24):
        (folder / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if k % 3 else 1
        image = Image.fromarray(rng.integers(0, 256, (20, 12 + k, 3), dtype=np.uint8))
        image.save(folder / f"c{k % 2}" / f"{k:03}.png", exif=exif)
    data = load(folder, fit="pad", size=10)
    result = write_run(tmp_path / "run", data)
    images = torch.from_numpy(data.train.store.images).permute(0, 3, 1, 2)
    expected = torch.softmax(result.best.model()(images).double(), 1)[:, 0]
    found = [p.probabilities["c0"] for p in result.best.predict(folder)]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


def test_arrays_of_all_kinds_give_the_same(used):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 16, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    expected = [p.probability for p in used.best.predict(pixels)]
    floats = pixels.astype(np.float64) / 255
    for images in (pixels.astype(int), floats, tensor, tensor / 255, list(pixels)):
        found = used.best.predict(images)
        assert [p.image for p in found] == [0, 1, 2, 3, 4]
        assert [p.probability for p in found] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(raynas.InvalidArgument, match="divide them by 255"):
        used.best.predict(pixels.astype(float))
    with pytest.raises(raynas.InvalidArgument, match="with 3 channels"):
        used.best.predict(pixels[..., :1])
    with pytest.raises(raynas.InvalidArgument, match="batches of images"):
        used.best.predict(pixels[0])
    with pytest.raises(raynas.InvalidArgument, match=r"integers must be in 0..255"):
        used.best.predict(pixels.astype(int) * 2)


def test_what_is_no_image_is_named(used, tmp_path):
    good, bad = photo(tmp_path / "good.png", 9), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(raynas.DataError, match=r"1 of 2 images cannot be read.*bad.png.*not an im"):
        used.best.predict([good, bad])
    with pytest.raises(raynas.DataError, match=r"no file .*absent.png"):
        used.best.predict(tmp_path / "absent.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(raynas.DataError, match=r"empty holds none"):
        used.best.predict(tmp_path / "empty")


def test_predict_on_the_command_line(used, tmp_path):
    file = photo(tmp_path / "a.png", 220)
    shown = CliRunner().invoke(app, ["predict", str(used.path), str(file)]).output
    assert re.fullmatch(rf"light +\d+\.\d\d%  {re.escape(str(file))}\n", shown)
    printed = CliRunner().invoke(app, ["predict", str(used.path), str(file), "--json"]).output
    (row,) = json.loads(printed)["predictions"]
    assert row["label"] == "light"
    assert row["image"] == str(file)
    assert set(row["probabilities"]) == {"dark", "light"}


# --- without raynas


def test_the_lines_of_the_report_see_a_photograph_as_raynas_does(image_folder, tmp_path):
    """Upright by its EXIF data, and not squeezed to the shape of the training."""
    data = load(image_folder)
    result = write_run(tmp_path / "run", data, epochs=8, formats=("weights", "torch"))
    pixels = np.zeros((24, 60, 3), np.uint8)
    pixels[:, :18] = 255  # cut off by raynas
    pixels[:12, 30:] = 90
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(result.path / "image.png", exif=turned)
    section = str(usage.using(result.path / "best", data))
    code = html.unescape(re.search(r'<pre id="use"><code>(.*?)</code>', section, re.DOTALL)[1])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAYNAS + code],
        capture_output=True, text=True, cwd=result.path, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    (expected,) = result.best.predict(result.path / "image.png")
    assert label == expected.label
    assert float(probability) == pytest.approx(expected.probability, abs=1e-4)


def test_every_file_of_the_winner_can_be_read_by_others(image_folder, tmp_path):
    result = write_run(tmp_path / "run", load(image_folder), formats=("weights", "torch"))
    modes = {path.name: path.stat().st_mode for path in (result.path / "best").iterdir()}
    assert modes["weights.safetensors"] == modes["metrics.json"]


def blocks():
    return re.findall(r"```python\n(.*?)```", (DOCS / "using.md").read_text(), re.DOTALL)


def test_the_code_of_the_docs_runs(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "has_onnx", lambda: True)
    formats = models.FORMATS
    if importlib.util.find_spec("onnxruntime") is None:
        formats = [name for name in formats if name != "onnx"]
    result = write_run(tmp_path / "run", load(image_folder), epochs=8, formats=formats)
    photo(result.path / "photo.jpg", 220)
    for file in ("network.py", "weights.safetensors"):
        (result.path / file).write_bytes((result.path / "best" / file).read_bytes())
    codes = [code for code in blocks() if "onnx" in formats or "onnxruntime" not in code]
    assert len(codes) >= 3
    own = [code for code in codes if "import raynas" in code]
    others = [WITHOUT_RAYNAS, *(code for code in codes if code not in own)]
    for together in (own, others):
        done = subprocess.run(
            [sys.executable, "-c", "".join(together)],
            capture_output=True, text=True, cwd=result.path,
            env={"PYTHONPATH": str(DOCS.parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        labels = [line.split()[0] for line in done.stdout.splitlines()]
        photos = "".join(together).count("photo.jpg")
        assert labels[:photos] == ["light"] * photos
        assert set(labels) <= {"dark", "light"}


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_programs_take_any_batch_and_size_and_mark_what_they_do_not_take(
    name, image_folder, tmp_path, monkeypatch
):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(models, "has_onnx", lambda: True)
    result = write_run(tmp_path / "run", load(image_folder), formats=["weights", name])
    model, best = result.best.model(), result.path / "best"
    if name == "torch":
        program = torch.export.load(best / "model.pt2").module()
    else:
        session = onnxruntime.InferenceSession(best / "model.onnx")

        def program(images):
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    for shape in [(1, 3, 8, 8), (5, 3, 8, 8), (1, 3, 20, 20), (7, 3, 5, 31), (2, 3, 1, 8)]:
        images = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(program(images), model(images), atol=1e-5, rtol=0)
    images[0] *= 255
    assert program(images).isnan().all(1).tolist() == [True, False]


def classifier_of(space, size):
    """A classifier with random statistics, so that nothing is 0 or 1 by chance."""
    arch = space.sample(np.random.default_rng(3))
    model = ImageClassifier(space.build(arch, (3, 16, 16), 5), [0.4] * 3, [0.2] * 3, size)
    generator = torch.Generator().manual_seed(0)
    for key, value in model.network.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if "var" in key else 0.3 * (noise - 0.4))
    return model.eval()


CELLS = ("darts", "nasnet", "amoebanet", "pnas", "enas")


@pytest.mark.parametrize("size", [(16, 16), None])
@pytest.mark.parametrize("name", search_spaces.names())
def test_plain_source_of_every_space(name, size, tmp_path):
    options = ":cells=3,channels=4,auxiliary=true" if name in CELLS else ""
    model = classifier_of(search_spaces.get(name + options), size)
    content = {"input_shape": [3, 16, 16], "class_names": list("abcde"), "architecture": 'a"b\\'}
    models.export(model, content, tmp_path, ["source", "weights"])
    text = (tmp_path / "network.py").read_text()
    assert not re.search(r"^(from|import) (raynas|trials|search_spaces)", text, re.MULTILINE)
    names = {}
    exec(text, names)
    copy = names["load"](tmp_path / "weights.safetensors")
    assert copy.state_dict().keys() == load_file(tmp_path / "weights.safetensors").keys()
    for shape in [(3, 3, 16, 16)] + [(2, 3, 21, 30)] * (size is not None):
        images = torch.rand(shape)
        with torch.no_grad():
            expected = model(images)
            torch.testing.assert_close(copy(images), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0


class Deciding(torch.nn.Module):
    """Its path depends on the values."""

    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_network_that_cannot_be_plain_source_is_refused(tmp_path):
    model = ImageClassifier(Deciding(), [0.4], [0.2]).eval()
    content = {"input_shape": [1, 8, 8], "class_names": ["a"]}
    with pytest.raises(raynas.InvalidArgument, match=r"plain source.*Use format='torch'"):
        models.export(model, content, tmp_path, ["source"])
    assert not (tmp_path / "network.py").exists()


def test_export_on_the_command_line(used, tmp_path):
    to = tmp_path / "to"
    arguments = ["export", str(used.path), "--to", str(to), "--format"]
    shown = CliRunner().invoke(app, [*arguments, "torch,source,weights"]).output
    files = ["model.pt2", "network.py", "weights.safetensors", "architecture.json"]
    assert shown.split() == [str(to / file) for file in files]
    assert {path.name for path in to.iterdir()} == set(files)
    wrong = CliRunner().invoke(app, [*arguments, "tensorflow"])
    assert "known are torch, onnx, weights, source" in str(wrong.exception)


# --- retraining


def test_the_winner_is_retrained_in_a_run_of_its_own(finished, tmp_path):
    before = {path: path.read_bytes() for path in finished.path.rglob("*.json*")}
    for _ in range(2):  # the second call finds all done
        result = raynas.retrain(finished.path, epochs=3, storage_path=tmp_path)
    assert result.path == tmp_path / "finished-retrained-3"
    assert result.finished
    assert result.best.architecture == finished.best.architecture
    assert result.trials["epochs"].tolist() == [1]
    assert [len(curve) for curve in result.history.retraining.values()] == [3]
    assert result.config["evaluate"] == finished.config["evaluate"]
    assert {path: path.read_bytes() for path in finished.path.rglob("*.json*")} == before


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_those_of_the_docs(name, monkeypatch, tmp_path):
    """And each names options that its space and the training have."""
    asked = {}
    monkeypatch.setattr("raynas.retraining.run", lambda **arguments: asked.update(arguments))
    path = unpack("area", tmp_path)
    config = yaml.safe_load((path / "run.yaml").read_text()) | {"space": "amoebanet:cells=8"}
    (path / "run.yaml").write_text(yaml.safe_dump(config))
    raynas.retrain(path, recipe=name)
    row = next(
        line for line in (DOCS / "training.md").read_text().splitlines() if f"| `{name}` |" in line
    )
    space, evaluate, epochs = (cell.strip(" `") for cell in row.split("|")[3:6])
    documented = parse(space)[2]
    given = parse(asked["space"])
    assert (given[0], {**given[2], **documented}) == ("amoebanet", given[2])
    assert search_spaces.get(asked["space"]).auxiliary
    assert asked["evaluate"] == evaluate
    construct("evaluate", evaluate, EVALUATORS)
    assert asked["retrain_epochs"] == int(epochs)


def test_a_winner_is_retrained_as_its_run_trained(monkeypatch, tmp_path):
    """But for an epoch that a time budget has made a stretch of time; and where the run lies."""
    asked = {}
    monkeypatch.setattr("raynas.retraining.run", lambda **arguments: asked.update(arguments))
    path = unpack("area", tmp_path)
    config = yaml.safe_load((path / "run.yaml").read_text())
    timed = "train:batch_size=16,epoch_seconds=5,mixup=0.2,pace=1e-11/5e-09/2e-05"
    more = {"evaluate": timed, "time_budget": "20min", "workers_per_trial": 2}
    (path / "run.yaml").write_text(yaml.safe_dump(config | more))
    there = place("memory://raynas/retrained/area")
    for file in path.rglob("*"):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            name = name.replace("events.jsonl", "events-00000000-00000000.jsonl")
            (there / name).write_bytes(file.read_bytes())
    raynas.retrain(str(there), epochs=100)
    assert asked["evaluate"] == "train:batch_size=16,mixup=0.2"
    assert (asked["epochs"], asked["retrain_epochs"], asked["retrain_workers"]) == (1, 100, 2)
    assert (asked["storage_path"], asked["name"]) == (
        "memory://raynas/retrained", "area-retrained-100",
    )  # fmt: skip


def test_what_cannot_be_retrained_is_said(tmp_path):
    path = unpack("area", tmp_path)
    with pytest.raises(raynas.InvalidArgument, match="epochs: say how many"):
        raynas.retrain(path)
    with pytest.raises(raynas.UnknownName, match="Did you mean 'darts'"):
        raynas.retrain(path, recipe="dart")
    with pytest.raises(raynas.InvalidArgument, match="'darts' is for the spaces darts, nasnet"):
        raynas.retrain(path, recipe="darts")
