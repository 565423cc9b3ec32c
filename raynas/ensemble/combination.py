"""How the members of an ensemble become one prediction: weights, temperature, and what it is worth.

All of it is fitted on the held-out part that the members were not trained on, and never on the
test part. The combination itself is `trials.deployed.combine`, which is also what is exported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from torch.nn import functional

from trials.deployed import Kind, combine, counted

KINDS: tuple[Kind, ...] = get_args(Kind)
#: `members x images x classes`, and `images`
Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

_BINS = 15  # of the calibration error
_TEMPERATURES = (0.05, 20.0)
_LEAST_VOTE = 1e-9  # of a member that is no better than chance


@dataclass(frozen=True)
class Combination:
    """A fitted combination.

    Attributes:
        kind: one of `KINDS`; see `trials.deployed.combine`.
        weights: one for each member.
        temperature: what divides the logarithms of the combined probabilities.
    """

    kind: Kind
    weights: tuple[float, ...]
    temperature: float = 1.0

    def measure(self, logits: Logits, labels: Labels) -> dict[str, float]:
        """Return `accuracy`, `loss` (mean cross-entropy), `ece` (expected calibration error)."""
        return measures(self._log_probabilities(logits), labels)

    def predict(self, logits: Logits) -> Labels:
        """Return the class of every image."""
        predicted: Labels = np.argmax(self._log_probabilities(logits), axis=1)
        return predicted

    def _log_probabilities(self, logits: Logits) -> NDArray[np.float32]:
        weights = torch.tensor(self.weights)
        together = combine(torch.from_numpy(logits), self.kind, weights, self.temperature)
        return together.numpy()


def fit(
    kind: Kind, logits: Logits, labels: Labels, temperature: bool = True,
    penalties: Sequence[float] | None = None,
) -> Combination:  # fmt: skip
    """Fit a combination.

    `average`, `average-logits` and `vote` weigh all alike. `weighted-vote` weighs a member by the
    logarithm of the odds that it is right, plus log(classes - 1) (Zhu et al.: Multi-class
    AdaBoost, 2009).
    `mixture` learns the weights; see `mixture_weights`.

    Args:
        kind: of the combination.
        logits: of the members on the held-out part, `members x images x classes`.
        labels: the true classes.
        temperature: whether to fit one, so that the loss is least (Guo et al.: On Calibration of
            Modern Neural Networks, 2017); it changes no decision.
        penalties: of the members' weights in a mixture.
    """
    if kind == "mixture":
        weights = mixture_weights(logits, labels, penalties)
    else:
        votes = _votes(kind, logits, labels)
        weights = votes / votes.sum()
    plain = Combination(kind, tuple(weights.tolist()))
    if not temperature:
        return plain
    together = torch.from_numpy(plain._log_probabilities(logits))
    best = _best_temperature(together, torch.from_numpy(labels))
    return Combination(kind, plain.weights, best)


def _votes(kind: Kind, logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """Return what the vote of each member weighs against that of the others."""
    members, images, classes = logits.shape
    if kind != "weighted-vote":
        return np.ones(members)
    right = (logits.argmax(2) == labels).sum(axis=1)
    odds = (right + 1) / (images - right + 1)
    votes: NDArray[np.float64] = np.maximum(np.log(odds) + np.log(classes - 1), _LEAST_VOTE)
    return votes


def accuracies(
    kind: Kind,
    logits: Logits,
    labels: Labels,
    order: Sequence[int],
    penalties: Sequence[float] | None = None,
) -> Iterator[tuple[int, float]]:
    """Yield (members, accuracy) of what is left while members go in this order, down to one.

    Arguments as of `fit`.
    """
    if kind == "mixture":
        for size in range(len(order), 0, -1):
            chosen = sorted(order[-size:])
            costs = None if penalties is None else [penalties[member] for member in chosen]
            fitted = fit(kind, logits[chosen], labels, temperature=False, penalties=costs)
            yield size, fitted.measure(logits[chosen], labels)["accuracy"]
        return
    points, total = [], 0.0
    truth, weigh = torch.from_numpy(labels), _votes(kind, logits, labels).tolist()
    shares = votes = torch.zeros(logits.shape[1:], dtype=torch.float64)
    for size, member in enumerate(reversed(order), 1):
        own, weight = torch.from_numpy(logits[member]).double(), weigh[member]
        total += weight
        shares = shares + weight * (own if kind == "average-logits" else own.softmax(dim=1))
        together = shares / total
        if kind in ("vote", "weighted-vote"):
            votes = votes + weight * functional.one_hot(own.argmax(1), own.shape[1])
            together = counted(votes / total, together, size)
        points.append((size, float((together.argmax(1) == truth).double().mean())))
    yield from reversed(points)


def mixture_weights(
    logits: Logits, labels: Labels, penalties: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Return the w >= 0 that make the objective of Cortes et al. (2017, equation 5) least.

    F(w) = mean cross-entropy of sum_j w_j h_j + sum_j penalty_j w_j, which is convex; from
    w = 1/N on.

    Args:
        logits: h, `members x images x classes`.
        labels: the true classes.
        penalties: one for each member; None: 0.
    """
    members = len(logits)
    cost = np.zeros(members) if penalties is None else np.asarray(penalties, np.float64)
    h, y = torch.from_numpy(logits), torch.from_numpy(labels)

    def objective(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = torch.tensor(w, dtype=torch.float32, requires_grad=True)
        loss = functional.cross_entropy(torch.tensordot(weights, h, dims=1), y)
        (gradient,) = torch.autograd.grad(loss, weights)
        return float(loss.detach()) + float(cost @ w), gradient.double().numpy() + cost

    optimum = minimize(
        objective, np.full(members, 1 / members), jac=True, method="L-BFGS-B",
        bounds=[(0, None)] * members,
    )  # fmt: skip
    weights: NDArray[np.float64] = optimum.x
    return weights


def measures(log_probabilities: NDArray[np.float32], labels: Labels) -> dict[str, float]:
    """Return `accuracy`, `loss` and `ece` of predictions, `images x classes`."""
    predicted = log_probabilities.argmax(axis=1)
    right = predicted == labels
    sure = np.exp(log_probabilities.max(axis=1))
    bins = np.minimum((np.nan_to_num(sure) * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=right - sure.astype(np.float64), minlength=_BINS)
    return {
        "accuracy": float(right.mean()),
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "ece": float(np.abs(gaps).sum() / len(labels)),
    }


def _best_temperature(together: torch.Tensor, labels: torch.Tensor) -> float:
    def loss(logarithm: float) -> float:
        return float(functional.cross_entropy(together / np.exp(logarithm), labels))

    optimum = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(np.exp(optimum.x))
