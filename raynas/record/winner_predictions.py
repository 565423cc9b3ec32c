"""What the winner predicts on the test part, kept in `best/predictions.parquet`."""

import math

import pandas as pd
import torch

from raynas.record.folder import RunFolder, read_json, write
from raynas.record.models import classifier, load_weights
from raynas.record.table import read_parquet
from search_spaces import SearchSpace
from trials.data import Data, Part
from trials.training import predict

_MOST_MACS = 5e11  # of all images together: about half a minute of one core


def predictions_on_test(folder: RunFolder, space: SearchSpace, data: Data) -> pd.DataFrame:
    """Return `label` and `predicted`, class numbers, of test images in the order of the part.

    They are computed on the CPU from the weights in `best/` where they are not known yet, and
    kept there; exporting another winner removes them. Of a large test part, for a large network,
    only every so many-th image is looked at, so that a report takes no minutes.

    Args:
        folder: of a run whose winner is exported.
        space: of its architectures.
        data: of the run.

    Raises:
        StorageError: when `best/` is damaged or cannot be written.
    """
    path = folder.best / "predictions.parquet"
    if path.exists():
        return read_parquet(path)
    content = read_json(folder.best / "architecture.json")
    arch = space.from_string(content["architecture"])
    network = space.build(arch, content["input_shape"], content["num_classes"])
    model = classifier(network, content)
    load_weights(model, folder.best)
    macs = read_json(folder.best / "metrics.json").get("macs", 0)
    step = max(1, math.ceil(len(data.test) * macs / _MOST_MACS))
    part = Part(data.test.store, data.test.indices[::step])
    logits, labels = predict(model.network, part, torch.device("cpu"))
    predicted = pd.DataFrame({"label": labels.numpy(), "predicted": logits.argmax(1).numpy()})
    write(path, predicted.to_parquet)
    return predicted
