"""How much predictions tell of each other and of the labels, in information.

Bian et al.: Sub-Architecture Ensemble Pruning in Neural Architecture Search (arXiv 1910.00370),
section III. With natural logarithms and the shares of classes as probabilities, H the entropy and
I the mutual information:

    MI(X, Y) = I(X; Y) / sqrt(H(X) H(Y))
    VI(X, Y) = 1 - I(X; Y) / H(X, Y)
    TDAC(X, Y) = lambda VI(X, Y) + (1 - lambda) (MI(X, L) + MI(Y, L)) / 2, 0 where X = Y

lambda is called `alpha`. None of them changes when classes are named otherwise, TDAC only in that
equal predictions are no longer seen to be equal. Of two constant predictions MI is 1 and VI is 0,
of one constant prediction and another one MI is 0 and VI is 1.
"""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from raynas.errors import InvalidArgument

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
#: `members x images`: the class that each member predicts for each image
Predictions = NDArray[Any]

_DENSE_CLASSES = 20  # up to so many, matrix products count faster than one pair after the other
_SPARSE = 100  # cells of a table for each image
_ROUNDING = 1e-12  # far below the entropy of any prediction that is not constant
_BLOCK_BYTES = 64 * 2**20  # of the counts of a block of pairs


def mutual_information(x: Sequence[Any], y: Sequence[Any]) -> float:
    """Return MI(X, Y), normalized, in [0, 1]; `x` and `y` hold one class for each image.

    Raises:
        InvalidArgument: unless both are one-dimensional, of one length, and not empty.
    """
    (codes_x, codes_y), classes = _encoded(x=x, y=y)
    joint, of_x, of_y = _entropies(codes_x, codes_y, classes)
    return float(_mi(of_x, of_y, joint))


def variation_of_information(x: Sequence[Any], y: Sequence[Any]) -> float:
    """Return VI(X, Y), normalized, in [0, 1]; arguments as of `mutual_information`."""
    (codes_x, codes_y), classes = _encoded(x=x, y=y)
    joint, of_x, of_y = _entropies(codes_x, codes_y, classes)
    return float(_vi(of_x, of_y, joint))


def tdac(x: Sequence[Any], y: Sequence[Any], labels: Sequence[Any], alpha: float = 0.5) -> float:
    """Return TDAC(X, Y): diversity of two predictions against their relevance to the labels.

    Args:
        x: one class for each image.
        y: likewise.
        labels: the true classes.
        alpha: lambda; the weight of diversity, 0..1.

    Raises:
        InvalidArgument: for another alpha, and as `mutual_information`.
    """
    check_alpha(alpha)
    (codes_x, codes_y, truth), classes = _encoded(x=x, y=y, labels=labels)
    if np.array_equal(codes_x, codes_y):
        return 0.0
    joint, of_x, of_y = _entropies(codes_x, codes_y, classes)
    joint_x, _, of_labels = _entropies(codes_x, truth, classes)
    joint_y, _, _ = _entropies(codes_y, truth, classes)
    relevance = (_mi(of_x, of_labels, joint_x) + _mi(of_y, of_labels, joint_y)) / 2
    return float(alpha * _vi(of_x, of_y, joint) + (1 - alpha) * relevance)


def relevances(predictions: Predictions, labels: Integers) -> Floats:
    """Return MI(X, L) of every member; see `tdac_matrix`."""
    classes = _classes(predictions, labels)
    of_labels = _entropy(np.bincount(labels, minlength=classes))
    values = []
    for member in predictions:
        joint, of_member, _ = _entropies(member.astype(np.int64), labels, classes)
        values.append(_mi(of_member, of_labels, joint))
    return np.array(values)


def vi_matrix(predictions: Predictions) -> Floats:
    """Return VI of every pair, `members x members`, with 0 on the diagonal."""
    joint, _ = _joint_entropies(predictions, _classes(predictions))
    own = np.diagonal(joint)
    matrix: Floats = _vi(own[:, None], own[None, :], joint)
    return matrix


def tdac_matrix(predictions: Predictions, labels: Integers, alpha: float = 0.5) -> Floats:
    """Return TDAC of every pair, `members x members`, with 0 on the diagonal.

    Args:
        predictions: `members x images`, classes as numbers from 0.
        labels: the true class of each image.
        alpha: lambda; the weight of diversity, 0..1.
    """
    joint, equal = _joint_entropies(predictions, _classes(predictions, labels))
    own = np.diagonal(joint)
    relevance = relevances(predictions, labels)
    matrix: Floats = alpha * _vi(own[:, None], own[None, :], joint)
    matrix += (1 - alpha) * (relevance[:, None] + relevance[None, :]) / 2
    matrix[equal] = 0
    return matrix


def disagreement_matrix(predictions: Predictions) -> Floats:
    """Return the share of images that two members predict differently, for every pair."""
    return np.array([(member != predictions).mean(axis=1) for member in predictions])


def check_alpha(alpha: float) -> None:
    """Refuse a weight that is none.

    Raises:
        InvalidArgument: unless it is in 0..1.
    """
    if not isinstance(alpha, Real) or not 0 <= alpha <= 1:
        raise InvalidArgument(f"alpha={alpha!r}: give the weight of diversity, 0..1.")


def _encoded(**named: Sequence[Any]) -> tuple[list[Integers], int]:
    """Return vectors of classes as numbers from 0, the same in all, and how many there are."""
    vectors = {name: _vector(name, vector) for name, vector in named.items()}
    length = len(next(iter(vectors.values())))
    for name, vector in vectors.items():
        if len(vector) != length or not length:
            raise InvalidArgument(
                f"{name} is of shape {vector.shape}: give one class for each image, for the same"
                f" {length or 1} or more images in each of {', '.join(vectors)}."
            )
    if all(vector.dtype.kind in "biuf" for vector in vectors.values()):
        names, codes = np.unique(np.concatenate(list(vectors.values())), return_inverse=True)
    else:  # 1 and "1" are two classes
        joined = np.concatenate([vector.astype(object) for vector in vectors.values()])
        codes, names = pd.factorize(joined)
    if (codes < 0).any():
        raise InvalidArgument(f"{', '.join(vectors)}: None or NaN among them. Give classes.")
    return np.split(codes.reshape(-1).astype(np.int64), len(vectors)), len(names)


def _vector(name: str, classes: Sequence[Any]) -> NDArray[Any]:
    try:
        vector = np.asarray(classes)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged, or a tensor with gradients
        raise InvalidArgument(f"{name}: {error} Give one class for each image.") from error
    if vector.ndim != 1:
        raise InvalidArgument(f"{name} is of shape {vector.shape}: give one class for each image.")
    if vector.dtype.kind == "f" and not np.isfinite(vector).all():
        raise InvalidArgument(f"{name} holds NaN or infinity: give classes.")
    return vector


def _classes(*codes: NDArray[Any]) -> int:
    return 1 + max(int(part.max()) for part in codes)


def _entropies(x: Integers, y: Integers, classes: int) -> tuple[float, float, float]:
    """Return H(X, Y), H(X) and H(Y)."""
    pairs = x * classes + y
    # A table of very many classes would be large and empty.
    many = classes**2 > _SPARSE * len(x)
    joint = np.unique(pairs, return_counts=True)[1] if many else np.bincount(pairs)
    return _entropy(joint), _entropy(np.bincount(x)), _entropy(np.bincount(y))


def _entropy(counts: Integers) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0  # not -0


def _mi(of_x: Any, of_y: Any, joint: Any) -> Any:
    """Compute MI from H(X), H(Y) and H(X, Y), element by element."""
    shared = np.maximum(of_x + of_y - joint, 0)
    constant = np.minimum(of_x, of_y) <= 0
    root = np.sqrt(np.where(constant, 1, of_x * of_y))
    return np.where(constant, joint <= 0, np.minimum(shared / root, 1)) + 0.0


def _vi(of_x: Any, of_y: Any, joint: Any) -> Any:
    """Compute VI from H(X), H(Y) and H(X, Y), element by element."""
    shared = np.maximum(of_x + of_y - joint, 0)
    constant = joint <= 0
    return np.where(constant, 0, np.clip(1 - shared / np.where(constant, 1, joint), 0, 1))


def _joint_entropies(predictions: Predictions, classes: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return H(X, Y) of every pair, H(X) on the diagonal, and which pairs are equal."""
    members, images = predictions.shape
    if classes > _DENSE_CLASSES:
        return _joint_entropies_of_many_classes(predictions, classes)
    entropies = np.empty((members, members))
    equal = np.empty((members, members), bool)
    numbers = np.arange(1, images + 1)
    # n log n for every count that there can be
    weighted = np.concatenate(([0.0], numbers * np.log(numbers)))
    for start, stop, counts in _joint_counts(predictions, classes):
        block = np.log(images) - weighted[counts].sum(axis=(1, 3)) / images
        same = np.trace(counts, axis1=1, axis2=3) == images
        entropies[start:stop, start:], equal[start:stop, start:] = block, same
        entropies[start:, start:stop], equal[start:, start:stop] = block.T, same.T
    return np.where(entropies < _ROUNDING, 0, entropies), equal


def _joint_counts(
    predictions: Predictions, classes: int
) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
    """Yield contingency tables of members `start..stop` with all from `start` on, by blocks.

    A table counts on how many images one member predicts class i and the other class j: the
    product of their one-hot codes. `members x classes x members x classes`.
    """
    members, images = predictions.shape
    codes = predictions.astype(np.uint8)[:, None, :] == np.arange(classes, dtype=np.uint8)[:, None]
    onehot = torch.from_numpy(codes.reshape(members * classes, images).view(np.int8))
    step = max(1, _BLOCK_BYTES // (4 * members * classes**2))
    for start in range(0, members, step):
        stop = min(start + step, members)
        rows = onehot[start * classes : stop * classes]
        counts = _products(rows, onehot[start * classes :]).numpy()
        yield start, stop, counts.reshape(stop - start, classes, members - start, classes)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute `a @ b.T` of zeros and ones, in whole numbers."""
    # Several times as fast where the CPU can, and wrong where there is one image only.
    if hasattr(torch, "_int_mm") and a.shape[1] > 1:
        return torch._int_mm(a, b.T)
    return (a.float() @ b.float().T).round().int()


def _joint_entropies_of_many_classes(
    predictions: Predictions, classes: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """See `_joint_entropies`; tables of many classes are nearly empty."""
    codes = predictions.astype(np.int64)
    members = len(codes)
    entropies = np.empty((members, members))
    equal = np.empty((members, members), bool)
    for i, x in enumerate(codes):
        rows = x * classes
        for j in range(i, members):
            joint = np.bincount(rows + codes[j])
            entropies[i, j] = entropies[j, i] = _entropy(joint)
            equal[i, j] = equal[j, i] = bool((x == codes[j]).all())
    return entropies, equal
