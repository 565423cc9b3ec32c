"""A trained classifier as one file of plain PyTorch, which needs neither raynas nor its spaces.

The network is traced with `torch.fx` in evaluation mode. Its state has the names of
`weights.safetensors`; what only training uses (an auxiliary head) is there and not called.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from raynas.errors import InvalidArgument
from trials import resampling
from trials.deployed import ImageClassifier

_TOLERANCE = 1e-5

_FILE = '''"""{description}

    model = load("weights.safetensors")
    logits = model(images)
    names = [CLASSES[number] for number in logits.argmax(1)]

Images are {images}.
"""

from typing import Literal

import torch
from torch import Tensor, nn

CLASSES = {classes}


{functions}def _add(network, name, module):
    """Put a module, parameter or buffer into a network, below others that hold it."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(network, part):
            network.add_module(part, nn.Module())
        network = getattr(network, part)
    if isinstance(module, nn.Module):
        network.add_module(last, module)
    elif isinstance(module, nn.Parameter):
        network.register_parameter(last, module)
    else:
        network.register_buffer(last, module)


class Network(nn.Module):
    """Maps normalized images to logits."""

    def __init__(self):
        super().__init__()
{modules}

{forward}

class Classifier(nn.Module):
    """Maps images as they are to logits."""

    def __init__(self):
        super().__init__()
        self.network = Network()
        self.register_buffer("mean", torch.zeros(1, {channels}, 1, 1))
        self.register_buffer("std", torch.ones(1, {channels}, 1, 1))

    def forward(self, images):
{resizing}        return self.network((images - self.mean) / self.std)


def load(path):
    """Return the trained classifier, in evaluation mode."""
    from safetensors.torch import load_file

    model = Classifier()
    model.load_state_dict(load_file(path))
    return model.eval()
'''

_RESIZING = """        if images.min() < -0.01 or images.max() > 1.01:
            raise ValueError("images are not in 0..1, or are normalized already")
        if images.shape[2:] != {size}:
            images = resized(images, {size}, {fit!r})
"""


def source_of(
    model: ImageClassifier, input_shape: Sequence[int], class_names: Sequence[str], description: str
) -> str:
    """Return the source of a file that rebuilds a classifier; see the module.

    Args:
        model: in evaluation mode, on the CPU.
        input_shape: channels, height and width of an image.
        class_names: one per class.
        description: the first line of the file.

    Raises:
        InvalidArgument: when the network cannot be written so.
    """
    size = model.size
    images = f"float32, batch x {input_shape[0]} x height x width, not normalized, " + (
        f"in 0..1; of a height and width other than {size} they are scaled" if size else
        f"of {input_shape[1]} x {input_shape[2]} pixels in the units of the training images"
    )  # fmt: skip
    try:
        text = _FILE.format(
            description=description.replace("\\", "/").replace('"', "'"), images=images,
            classes=repr(list(class_names)), channels=input_shape[0],
            modules="\n".join(f"        {line}" for line in _constructions(model.network)),
            forward=_forward(model.network),
            resizing=_RESIZING.format(size=size, fit=model.fit) if size else "",
            functions=_functions() if size else "",
        )  # fmt: skip
        _check(text, model, input_shape)
    except Exception as error:  # tracing runs the user's code
        raise InvalidArgument(
            f"format='source': this network cannot be written as plain source ({error})."
            " Use format='torch' or 'onnx'."
        ) from error
    return text


def _constructions(network: nn.Module) -> Iterator[str]:
    """Yield the statements that make all modules, parameters and buffers of a network."""
    for name, module in network.named_modules():
        if name and _is_simple(module):
            yield f"_add(self, {name!r}, {_constructor(module)})"
            continue
        for key, value in module.named_parameters(name, recurse=False):
            yield f"_add(self, {key!r}, nn.Parameter(torch.zeros({tuple(value.shape)})))"
        for key, value in module.named_buffers(name, recurse=False):
            yield f"_add(self, {key!r}, torch.zeros({tuple(value.shape)}, dtype={value.dtype}))"


def _is_simple(module: nn.Module) -> bool:
    """Return whether a module is of `torch.nn` itself, and contains no others."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    of_torch = getattr(nn, type(module).__name__, None) is type(module)
    return of_torch and not isinstance(module, containers)


def _constructor(module: nn.Module) -> str:
    """Return the call that makes a module of `torch.nn`; its `repr` leaves options out."""
    arguments = []
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            continue
        value: Any = getattr(module, name)
        if name == "bias":
            value = value is not None
        if isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]
        if parameter.default is parameter.empty:
            arguments.append(repr(value))
        elif value != parameter.default:
            arguments.append(f"{name}={value!r}")
    return f"nn.{type(module).__name__}({', '.join(arguments)})"


def _forward(network: nn.Module) -> str:
    """Return the method `forward` of a network."""
    graph = torch.fx.symbolic_trace(network).graph
    graph.eliminate_dead_code()
    code = re.sub(r";  .* = None$", "", graph.python_code("self").src, flags=re.MULTILINE)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for name in sorted(called, key=len, reverse=True):
        code = code.replace(f"{_place(name)}(", f'layer("{name}")(')
    signature, *body = code.strip().splitlines()
    lines = [signature, "    layer = self.get_submodule", *body]
    return "".join(f"    {line}".rstrip() + "\n" for line in lines)


def _place(name: str) -> str:
    """Return the expression by which `torch.fx` writes a submodule."""
    place = "self"
    for part in name.split("."):
        place = f"{place}.{part}" if part.isidentifier() else f'getattr({place}, "{part}")'
    return place


def _functions() -> str:
    """Return the functions that bring images to the network's size."""
    functions = inspect.getsource(resampling).partition("\n\n\n")[2]
    return f'Fit = Literal["crop", "pad"]\n\n\n{functions}\n\n'


def _check(text: str, model: ImageClassifier, input_shape: Sequence[int]) -> None:
    """Run the file, and compare what its network gives.

    Raises:
        ValueError: when it gives something else.
    """
    names: dict[str, Any] = {}
    exec(compile(text, "network.py", "exec"), names)
    copy = names["Classifier"]()
    copy.load_state_dict(model.state_dict())
    channels, height, width = input_shape
    larger = (height + 3, width + 2) if model.size else (height, width)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for shape in ((height, width), larger):
            images = torch.rand(2, channels, *shape, generator=generator)
            expected, given = model(images), copy.eval()(images)
            scale = max(1.0, float(expected.abs().max()))
            if not float((expected - given).abs().max()) <= _TOLERANCE * scale:
                raise ValueError("the traced network gives other logits")
