"""`best/`: the winner in forms that load without raynas."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raynas.errors import InvalidArgument, StorageError

FORMATS = ("pt2", "onnx", "safetensors")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is either the old one or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        StorageError: when the file is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    return content


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
    for name in formats:
        if name not in writers:
            raise InvalidArgument(f"format={name!r}: known are {', '.join(FORMATS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    model = model.cpu().eval().to(memory_format=torch.contiguous_format)
    # A batch of one or of a fixed size would be baked into the program.
    images = torch.zeros(2, *input_shape)
    return [writers[name](model, images, folder) for name in formats]


def has_onnx() -> bool:
    """Whether the packages that ONNX export needs are installed."""
    try:
        import onnx  # noqa: F401  a heavy extra
        import onnxscript  # noqa: F401
    except ImportError:
        return False
    return True


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load `weights.safetensors` of a folder into a classifier."""
    model.load_state_dict(load_file(folder / "weights.safetensors"))


def _safetensors(model: nn.Module, images: torch.Tensor, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def _pt2(model: nn.Module, images: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.pt2"
    program = torch.export.export(
        model, (images,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}}
    )
    torch.export.save(program, path)
    return path


def _onnx(model: nn.Module, images: torch.Tensor, folder: Path) -> Path:
    if not has_onnx():
        raise InvalidArgument("format='onnx' needs more packages: pip install 'raynas[onnx]'.")
    path = folder / "model.onnx"
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
    return path
