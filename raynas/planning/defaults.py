"""What a run does in its time where nothing else is said, and why. Pure: numbers in, numbers out.

The rules, in the order in which they apply:

1. An epoch lasts the same time for every architecture, so that a small network sees more images
   than a large one; what is compared is what can be had for the time.
2. The time is divided among search, last decision and retraining by what limits the accuracy: where
   all of it would let a typical network see the images only some ten times, the retraining gets
   most; where it would see them some hundred times, more training gains nothing, and more
   architectures do.
3. An evaluation lasts until a typical network has seen the images forty times in a thousand steps,
   or shorter, so that the search can make eight evaluations at least.
4. Architectures so large that an evaluation would not let them see the images five times are left
   out. The first two evaluations are of ResNet9s of the sizes that suit the time, which one would
   take without a search.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from raynas.planning.facts import Dataset, Hardware, Speed
from search_spaces.convnet import CHANNELS

#: epochs of an evaluation, of a training before the last decision, of the retraining
EVALUATION_EPOCHS, SELECT_EPOCHS, RETRAIN_EPOCHS = 3, 4, 6
#: what training and search start and end with: Ray, measuring; export and report
OPENING, CLOSING = 15.0, 15.0

_FEWEST, _MOST = 8, 64  # evaluations
_PASSES, _STEPS = 40, 1000  # of an evaluation that is long enough
_RETRAIN_PASSES, _RETRAIN_STEPS = 250, 6000  # beyond which nothing is gained
_SCARCE, _PLENTY = 15.0, 200.0  # passes of a typical network in the whole time
_SHARES = ((0.22, 0.10, 0.68), (0.45, 0.25, 0.30))  # where time is scarce, where there is plenty
_LEAST_SEEN = 5.0  # times that an evaluation shows every image, at least
_KNOWN_SEEN = 12.0  # times, by the smaller of the two architectures that come first
_MIXUP = 0.5
_MIXED = 40.0  # passes from which mixed images gain more than they slow the training
_JUDGING = 0.3  # seconds for an image that is judged, in those for one that is trained with
#: ResNet9s, from narrow to wide
KNOWN = tuple(f"c{channels}-w2d1-w2d0-w2d1" for channels in CHANNELS)


@dataclass(frozen=True)
class Shares:
    """How time is divided; the three add up to 1."""

    search: float
    select: float
    retrain: float

    def __str__(self) -> str:
        return "/".join(f"{share:.2f}" for share in (self.search, self.select, self.retrain))


@dataclass(frozen=True)
class Choice:
    """What is done, and why.

    Attributes:
        argument: of `run()`, or what else has a value.
        value: for people; that of an argument is its text.
        why: half a sentence.
    """

    argument: str
    value: str
    why: str


@dataclass
class Outline:
    """A run in its time.

    Attributes:
        arguments: {argument of `run()`: value}.
        shares: of the time between opening and closing.
        longest: {stage: seconds of one training, as the pace has them, beyond which nothing is
            gained}.
        alone: how many times faster a network trains that has all cores of a node.
        choices: what is done and why.
    """

    arguments: dict[str, Any]
    shares: Shares
    longest: dict[str, float]
    alone: float
    choices: list[Choice] = field(default_factory=list)


def space_for(dataset: Dataset) -> Choice:
    """Choose the search space, before it is known how fast its networks train."""
    _, height, width = dataset.input_shape
    why = (
        f"plain and residual networks; the smallest suit {height} x {width} pixels and short times"
    )
    return Choice("space", "convnet", why)


def recipe_for(dataset: Dataset) -> Choice:
    """Choose the recipe of trainings, before it is known how fast they are."""
    batch_size = 64 if dataset.train >= 1024 else 32
    why = "docs/defaults.md has the table of what each part gains"
    return Choice("evaluate", f"train:batch_size={batch_size},label_smoothing=0.1,warmup=0.15", why)


def outline(
    seconds: float, dataset: Dataset, hardware: Hardware, speed: Speed, evaluate: str,
    space: str, epochs: int | None = None, augment: bool = True,
) -> Outline:  # fmt: skip
    """Return what is done in a time.

    Args:
        seconds: from start to end.
        dataset: what is learnt.
        hardware: on what.
        speed: of the networks of the space.
        evaluate: the recipe, without pace.
        space: as text.
        epochs: of an evaluation; None: three.
        augment: whether images may be mixed.
    """
    left = max(seconds - OPENING - CLOSING, seconds / 2)
    image = speed.typical
    seen = left * speed.alone / (image * dataset.train)
    shares, epochs = _shares(seen), epochs or EVALUATION_EPOCHS
    searching = left * shares.search
    enough = max(_PASSES * dataset.train, _STEPS * speed.batch_size) * image
    judging = epochs * dataset.validation * _JUDGING * image
    rounds = math.ceil(_FEWEST / hardware.slots)
    one = min(enough, max(searching / rounds - judging, image * speed.batch_size * 30))
    affordable = searching * hardware.slots / (one + judging)
    samples = int(min(_MOST, max(3.0, affordable + 1e-6)))  # 8 may be a little less
    select = _candidates(left * shares.select, samples, one, hardware)
    most = dataset.train + dataset.validation
    longest = {
        "select": max(_RETRAIN_PASSES * dataset.train, _RETRAIN_STEPS * speed.batch_size) * image,
        "retrain": max(_RETRAIN_PASSES * most, _RETRAIN_STEPS * speed.batch_size) * image,
    }
    epoch_seconds = float(f"{one / epochs:.3g}")
    limit = _limit(speed, one, dataset.train)
    first = _first(speed, one, dataset.train, limit or math.inf)
    arguments: dict[str, Any] = {
        "space": space,
        "search": "auto:initial=4,candidates=4" + (first and f",first={first}"),
        "evaluate": f"{evaluate},epoch_seconds={epoch_seconds:g},pace={speed.pace}"
        + (f",precision={speed.precision}" if speed.precision else ""),
        "scheduler": "fifo",
        "constraint": limit and f"limit:of=macs,most={limit:.0f}",
        "samples": math.ceil(1.5 * samples),
        "epochs": epochs,
        "select": select,
    }
    mixed = augment and seen * shares.retrain >= _MIXED
    if mixed:
        arguments["evaluate"] = f"{arguments['evaluate']},mixup={_MIXUP:g}"
    choices = [
        Choice("time", str(shares), _why_shares(seen)),
        Choice("epochs", f"{epochs} of {epoch_seconds:g} s", _why_epochs(one, enough)),
        Choice("samples", f"about {samples}", f"{hardware.slots} at a time, in the search's share"),
        Choice("search", "auto", f"first {first or 'four at random'}, from the fifth by surrogate"),
        Choice("scheduler", "fifo", "learning rates fall to 0 within every evaluation"),
        Choice(
            "select", str(select), "so many are trained longer, before one of them is chosen"
            if select > 1 else "the search decides: the time is too short to train several again",
        ),
    ]  # fmt: skip
    if mixed:
        why = f"a typical network sees the images more than {_MIXED:g} times in the retraining"
        choices.append(Choice("mixup", f"{_MIXUP:g}", why))
    if speed.precision:
        choices.append(Choice("precision", speed.precision, "the faster one here, measured"))
    if limit:
        why = f"larger ones would not see the images {_LEAST_SEEN:g} times in an evaluation"
        choices.append(Choice("constraint", f"at most {limit / 1e6:.3g} M MACs", why))
    return Outline(arguments, shares, longest, speed.alone, choices)


def _shares(seen: float) -> Shares:
    """Divide the time; see rule 2."""
    plenty = math.log(seen / _SCARCE) / math.log(_PLENTY / _SCARCE)
    plenty = min(1.0, max(0.0, plenty))
    return Shares(*(a + (b - a) * plenty for a, b in zip(*_SHARES, strict=True)))


def _candidates(seconds: float, samples: int, one: float, hardware: Hardware) -> int:
    """Return how many trainings of twice an evaluation's length the last decision has time for."""
    affordable = int(seconds / (2 * one)) * hardware.slots
    count = min(affordable, max(2, samples // 4), 4)
    return count if count > 1 else 1


def _limit(speed: Speed, one: float, images: int) -> float | None:
    """Return the MACs beyond which an evaluation shows the images too seldom; see rule 4."""
    affordable = [w for w in speed.works if speed.image_seconds(w) * images * _LEAST_SEEN <= one]
    if len(affordable) == len(speed.works):
        return None
    few = speed.works[len(speed.works) // 4].macs  # there must be something to search in
    return float(max([few, *(w.macs for w in affordable)]))


def _first(speed: Speed, one: float, images: int, limit: float) -> str:
    """Return the known architectures that are evaluated first, as `auto` takes them."""
    texts = list(speed.known)
    suitable = [
        speed.image_seconds(work) * images * _KNOWN_SEEN <= one for work in speed.known.values()
    ]
    largest = max(sum(suitable) - 1, 0)
    chosen = texts[largest : largest + 2]
    return ";".join(t for t in chosen if speed.known[t].macs <= limit or t == texts[0])


def _why_shares(seen: float) -> str:
    limited = "training time limits the accuracy" if seen < 60 else "more training gains little"
    return f"in all of it a typical network would see the images {seen:.0f} times: {limited}"


def _why_epochs(one: float, enough: float) -> str:
    if one >= enough:
        return f"a typical network has seen the images {_PASSES} times by then, in {_STEPS} steps"
    return f"longer would be better, but there would be fewer than {_FEWEST} evaluations"
