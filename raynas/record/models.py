"""`best/`: the winner in forms that load without raynas."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn

from raynas.errors import InvalidArgument, StorageError
from raynas.record.folder import read_json, write
from raynas.record.source import source_of
from trials.data import Data
from trials.data.scaling import Fit
from trials.deployed import ImageClassifier, checked
from trials.places import is_local, make_folder
from trials.resampling import resized

_FILES = {
    "torch": "model.pt2",
    "onnx": "model.onnx",
    "weights": "weights.safetensors",
    "source": "network.py",
}
FORMATS = tuple(_FILES)
_OLDER = {"pt2": "torch", "safetensors": "weights"}  # names of formats
_TOLERANCE = 1e-3  # of an ONNX program's logits, relative to the largest


def description(data: Data) -> dict[str, Any]:
    """Return what a network trained on these data takes and gives, for `architecture.json`."""
    bounded = data.unit == "0..1"
    return {
        "input_shape": list(data.input_shape),
        "input_range": [0, 1] if bounded else None,
        "fit": data.fit if bounded else None,
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "input": f"float32, batch x channels x height x width, {data.unit}, not normalized"
        + ("; any height and width: scaled to those of input_shape" if bounded else ""),
    }


def is_bounded(content: Mapping[str, Any]) -> bool:
    """Return whether a network takes images in 0..1, not in the units of the user's own data.

    Args:
        content: of `description`, or of an older `architecture.json`, which says it in words.
    """
    return "0..1" in content["input"]


def classifier(network: nn.Module, content: Mapping[str, Any]) -> ImageClassifier:
    """Return a network with the preparation of its images.

    Args:
        network: maps normalized images to logits.
        content: of `description`, or of an older `architecture.json`.
    """
    _, height, width = content["input_shape"]
    size = (height, width) if is_bounded(content) else None
    fit: Fit = content.get("fit") or "crop"
    return ImageClassifier(network, content["mean"], content["std"], size, fit)


def export(
    model: nn.Module, content: Mapping[str, Any], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Write a classifier to `folder` in the given formats.

    `weights.safetensors` holds the weights, `network.py` the network as plain PyTorch, `model.pt2`
    is a `torch.export` program and `model.onnx` an ONNX one; the programs take `images`, float32,
    batch x channels x height x width, for any batch (and any height and width, where the images
    are in 0..1), and give logits.

    Args:
        model: the classifier.
        content: of `description`.
        folder: to write to; made where it is missing.
        formats: some of `FORMATS`.

    Raises:
        InvalidArgument: for an unknown format, ONNX without its packages installed, or a network
            that a format cannot hold.
    """
    writers = {"torch": _pt2, "onnx": _onnx, "weights": _safetensors, "source": _source}
    formats = _known(formats)
    make_folder(folder)
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    written = []
    for name in formats:
        path = folder / _FILES[name]
        if is_local(path):
            writers[name](model, content, path)
        else:
            write(path, partial(writers[name], model, content))
        written.append(path)
    return written


def export_again(model: nn.Module, best: Path, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the model of a `best/` folder to another one, by copying where it has the format.

    `architecture.json` goes along: names of classes, and what the model takes.

    Raises:
        InvalidArgument: for an unknown format, or what it lacks; see `export`.
        StorageError: when `folder` cannot be written.
    """
    content = read_json(best / "architecture.json")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _known(formats):
            there, here = best / _FILES[name], folder / _FILES[name]
            if not there.exists():
                written += export(model, content, folder, [name])
                continue
            written.append(_copied(there, here))
        written.append(_copied(best / "architecture.json", folder / "architecture.json"))
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}.") from error
    return written


def _copied(there: Path, here: Path) -> Path:
    """Copy a file, unless it lies there already; return where it lies."""
    if not (is_local(there) and there.resolve() == here.resolve()):
        here.write_bytes(there.read_bytes())
    return here


def _known(formats: Sequence[str]) -> list[str]:
    """Return the names of formats, today's in place of older ones.

    Raises:
        InvalidArgument: for one that is unknown.
    """
    names = [_OLDER.get(name, name) for name in formats]
    for name in names:
        if name not in FORMATS:
            raise InvalidArgument(f"format={name!r}: known are {', '.join(FORMATS)}.")
    return names


class ExportedModel(nn.Module):
    """The `model.pt2` of a folder as a module; it only knows the evaluation mode.

    Args:
        folder: `best/` or `ensemble/` of a run.
        content: of `description`; None: of an older ensemble, which says nothing of it.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any] | None):
        super().__init__()
        program = io.BytesIO((folder / _FILES["torch"]).read_bytes())
        self.program: nn.Module = torch.export.load(program).module()
        self.content = content
        self.training = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to `batch x classes`, as `ImageClassifier` does.

        Raises:
            InvalidArgument: for images that the network does not take.
        """
        if self.content is not None and not torch.compiler.is_compiling():
            channels, *size = self.content["input_shape"]
            bounded = is_bounded(self.content)
            images = checked(images, channels, bounded)
            if bounded and list(images.shape[2:]) != size:  # older programs take one size
                images = resized(images, (size[0], size[1]), self.content.get("fit") or "crop")
        logits: torch.Tensor = self.program(images)
        return logits

    def train(self, mode: bool = True) -> "ExportedModel":
        """Do nothing for `mode=False`.

        Raises:
            InvalidArgument: for `mode=True`.
        """
        if mode:
            raise InvalidArgument(
                "train(True): this network was exported in evaluation mode. To train it further,"
                " give the space of the run: best.model(space=...)."
            )
        return self


def has_onnx() -> bool:
    """Return whether the packages that ONNX export needs are installed."""
    try:
        import onnx  # noqa: F401  a heavy extra
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load `weights.safetensors` of a folder into a classifier."""
    model.load_state_dict(load((folder / _FILES["weights"]).read_bytes()))


def _safetensors(model: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    # its `save_file` makes files that nobody else may read
    path.write_bytes(save({k: v.contiguous() for k, v in model.state_dict().items()}))


def _source(model: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    if not isinstance(model, ImageClassifier):
        raise InvalidArgument(
            "format='source': only your own code can build this network. In Python, give"
            " best.model(space=...) to raynas.record.models.export."
        )
    name = f"{content.get('architecture', 'a network')}, found by raynas."
    path.write_text(source_of(model, content["input_shape"], content["class_names"], name))


def _pt2(model: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    images, dynamic = _example(model, content)
    buffer = io.BytesIO()  # torch's own writing to a full disk raises anything
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=dynamic), buffer)
    path.write_bytes(buffer.getbuffer())


def _onnx(model: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    if not has_onnx():
        raise InvalidArgument("format='onnx' needs more packages: pip install 'raynas[onnx]'.")
    images, dynamic = _example(model, content)
    torch.onnx.export(
        model,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=dynamic,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    _check_onnx(path, model, content)


def _example(model: nn.Module, content: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return images to export with, and which of their axes may have any length.

    Lengths of 1, or of the network's own, would be baked into the program.
    """
    channels, height, width = content["input_shape"]
    older = isinstance(model, ExportedModel) and "input_range" not in content  # of one size
    if not is_bounded(content) or older:
        return torch.zeros(2, channels, height, width), {"images": {0: torch.export.Dim.DYNAMIC}}
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    return torch.zeros(2, channels, height + 3, width + 5), {"images": dynamic}


def _check_onnx(path: Path, model: nn.Module, content: Mapping[str, Any]) -> None:
    """Compare what an ONNX program gives with the model, where onnxruntime is installed.

    Raises:
        InvalidArgument: when it gives something else.
    """
    try:
        import onnxruntime  # a heavy extra
    except ImportError:
        return
    session = onnxruntime.InferenceSession(path)
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3):
        images = torch.rand(batch, *content["input_shape"], generator=generator)
        (given,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images).numpy()
        if not np.allclose(
            given, expected, rtol=0, atol=_TOLERANCE * max(1, np.abs(expected).max())
        ):
            path.unlink()
            raise InvalidArgument(
                "format='onnx': the ONNX program gives other logits than the network. Use"
                " format='torch'."
            )
