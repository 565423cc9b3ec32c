"""`best/`: the winner in forms that load without raynas."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import nn

from raynas.errors import InvalidArgument, StorageError
from raynas.record.folder import read_json, write
from trials.places import is_local, make_folder

_FILES = {"pt2": "model.pt2", "onnx": "model.onnx", "safetensors": "weights.safetensors"}
FORMATS = tuple(_FILES)


def export(
    model: nn.Module, input_shape: Sequence[int], folder: Path, formats: Sequence[str]
) -> list[Path]:
    """Write a classifier to `folder` in the given formats.

    `weights.safetensors` holds the weights, `model.pt2` is a `torch.export` program and
    `model.onnx` an ONNX one; both take `images`, float32, batch x channels x height x width,
    for any batch, and give logits.

    Raises:
        InvalidArgument: for an unknown format, or ONNX without its packages installed.
    """
    writers = {"pt2": _pt2, "onnx": _onnx, "safetensors": _safetensors}
    _check_formats(formats)
    make_folder(folder)
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    # A batch of one or of a fixed size would be baked into the program.
    images = torch.zeros(2, *input_shape)
    written = []
    for name in formats:
        path = folder / _FILES[name]
        if is_local(path):
            writers[name](model, images, path)
        else:
            write(path, partial(writers[name], model, images))
        written.append(path)
    return written


def export_again(model: nn.Module, best: Path, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the model of a `best/` folder to another one, by copying where it has the format.

    Raises:
        InvalidArgument: for an unknown format, or ONNX without its packages installed.
        StorageError: when `folder` cannot be written.
    """
    _check_formats(formats)
    shape = read_json(best / "architecture.json")["input_shape"]
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats:
            there, here = best / _FILES[name], folder / _FILES[name]
            if not there.exists():
                written += export(model, shape, folder, [name])
                continue
            if not (is_local(there) and there.resolve() == here.resolve()):
                here.write_bytes(there.read_bytes())
            written.append(here)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}.") from error
    return written


def _check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise InvalidArgument(f"format={name!r}: known are {', '.join(FORMATS)}.")


class ExportedModel(nn.Module):
    """The `model.pt2` of a folder as a module; it only knows the evaluation mode.

    Args:
        folder: `best/` of a run.
    """

    def __init__(self, folder: Path):
        super().__init__()
        program = io.BytesIO((folder / _FILES["pt2"]).read_bytes())
        self.program: nn.Module = torch.export.load(program).module()
        self.training = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images `batch x channels x height x width`, float32, to `batch x classes`."""
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
    model.load_state_dict(load((folder / _FILES["safetensors"]).read_bytes()))


def _safetensors(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)


def _pt2(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    program = torch.export.export(
        model, (images,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
    )
    buffer = io.BytesIO()  # torch's own writing to a full disk raises anything
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _onnx(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    if not has_onnx():
        raise InvalidArgument("format='onnx' needs more packages: pip install 'raynas[onnx]'.")
    torch.onnx.export(
        model,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
