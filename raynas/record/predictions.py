"""What the winner predicts on the test part, kept in `best/predictions.parquet`."""

import pandas as pd
import torch
from safetensors.torch import load_file

from raynas.record.folder import RunFolder, read_json, write
from search_spaces import SearchSpace
from trials.data import Data
from trials.deployed import ImageClassifier
from trials.training import predict


def test_predictions(folder: RunFolder, space: SearchSpace, data: Data) -> pd.DataFrame:
    """Return `label` and `predicted`, class numbers, of every test image in the order of the part.

    They are computed on the CPU from the weights in `best/` where they are not known yet, and
    kept there; exporting another winner removes them.

    Args:
        folder: of a run whose winner is exported.
        space: of its architectures.
        data: of the run.

    Raises:
        StorageError: when `best/` is damaged or cannot be written.
    """
    path = folder.best / "predictions.parquet"
    if path.exists():
        return pd.read_parquet(path)
    content = read_json(folder.best / "architecture.json")
    arch = space.from_string(content["architecture"])
    network = space.build(arch, content["input_shape"], content["num_classes"])
    model = ImageClassifier(network, content["mean"], content["std"])
    model.load_state_dict(load_file(folder.best / "weights.safetensors"))
    logits, labels = predict(network, data.test, torch.device("cpu"))
    predicted = pd.DataFrame({"label": labels.numpy(), "predicted": logits.argmax(1).numpy()})
    write(path, predicted.to_parquet)
    return predicted
