"""What a run does in its time where nothing else is said, and why. Pure: numbers in, numbers out.

The rules, in the order in which they apply:

1. An epoch lasts the same time for every architecture, so that a small network sees more images
   than a large one; what is compared is what can be had for the time.
2. A small network is best for a short time, a large one for a long time: about 6,000 divided by the
   root of the number of images is how often a network should see them. It was found by trainings of
   ResNet9s of several sizes on parts of CIFAR-10.
3. The time is divided among search, last decision and retraining by what limits the accuracy. Where
   a typical network could hardly see the images so often in all of it, short trainings would
   compare noise, and so they would where fewer than 500 validation images are to decide: nothing is
   searched, and the ResNet9 that suits the time is trained. Where it could fifteen times, more
   training gains little, and more architectures do. Between the two the shares follow the
   logarithm.
4. An evaluation lasts until a typical network has seen the images forty times in a thousand steps,
   or shorter, so that the search can make eight evaluations at least.
5. A short training favors small networks. So only those are searched that see the images about as
   often as they should in the retraining, from a quarter to two and a half times, as far as there
   are such. The first two evaluations are of ResNet9s: the widest that sees them often enough, and
   the next wider one.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from raynas.config.config import SPACE_IN_TIME
from raynas.planning.facts import Dataset, Hardware, Speed
from search_spaces.convnet import CHANNELS, ConvNet
from search_spaces.naming import parse, spell
from trials.pace import Work

#: epochs of an evaluation, of a training before the last decision, of the retraining
EVALUATION_EPOCHS, SELECT_EPOCHS, RETRAIN_EPOCHS = 3, 4, 6
#: what training and search start and end with: Ray, measuring; export and report
OPENING, CLOSING = 15.0, 15.0

_FEWEST, _MOST = 8, 64  # evaluations
_PASSES, _STEPS = 40, 1000  # of an evaluation that is long enough
_RETRAIN_PASSES, _RETRAIN_STEPS = 400, 10_000  # beyond which nothing is gained
_SEEN = 6000.0  # times that a network should see the images, times the root of their number
_SCARCE, _PLENTY = 1.5, 15.0  # how many times as often a typical network could in the whole time
_SHARES = ((0.15, 0.05, 0.80), (0.40, 0.25, 0.35))  # where time is scarce, where there is plenty
_COMPARABLE = 500  # validation images: with fewer, chance is larger than what is compared
_WITHOUT_SEARCH = (0.02, 0.0, 0.98)
_WINDOW = (0.25, 2.5)  # as often as networks should, those do that are searched
_SEARCHED = 0.25  # of all architectures are searched, at least
#: how networks are trained, but for what follows from the time
RECIPE = "train:label_smoothing=0.1,warmup=0.15"
_SPACE = ConvNet()
#: ResNet9s, from narrow to wide
KNOWN = tuple(
    _SPACE.to_string(_SPACE.canonical(_SPACE.from_string(f"c{channels}-w2d1-w2d0-w2d1")))
    for channels in CHANNELS
)
_LEAST_STEPS = 30  # of an evaluation of a typical network, however short the time
MIXUP = 0.5
_MIXED = 40.0  # passes from which mixed images gain more than they slow the training
_JUDGING = 0.3  # seconds for an image that is judged, in those for one that is trained with


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


@dataclass(frozen=True)
class Times:
    """How the time is spent.

    Attributes:
        seen: times that a typical network would see the images in all of it.
        suitable: times that a network should see them.
        shares: of search, last decision and retraining.
        enough: seconds of an evaluation that is long enough.
        evaluation: seconds of an evaluation.
        samples: evaluations that the search's share holds; 1: nothing is compared.
        select: trainings that the last decision's share holds; 1: the search decides.
        retraining: seconds of the retraining, as the pace has them.
        longest: {stage: seconds of one training beyond which nothing is gained}.
    """

    seen: float
    suitable: float
    shares: Shares
    enough: float
    evaluation: float
    samples: int
    select: int
    retraining: float
    longest: dict[str, float]


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
    return Choice("space", SPACE_IN_TIME, why)


def outline(
    seconds: float, dataset: Dataset, hardware: Hardware, speed: Speed, evaluate: str,
    space: str, epochs: int | None = None, augment: bool = True, fewest: int = 1,
    most: int | None = None,
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
        fewest: evaluations that what is said cannot do without; with more than one there is a
            search, however short the time.
        most: evaluations, where that is said.
    """
    times = _times(seconds, dataset, hardware, speed, epochs or EVALUATION_EPOCHS, fewest, most)
    epochs = epochs or (EVALUATION_EPOCHS if times.samples > 1 else 1)
    seconds_of_passes = times.retraining / (dataset.train + dataset.validation)
    one_pass = seconds_of_passes / times.suitable
    window = _window(speed, one_pass) if times.samples > 1 else None
    first = _first(speed, one_pass, window, 1 if times.samples == 1 else 2)
    mixed = augment and seconds_of_passes / speed.typical >= _MIXED
    options = {
        "epoch_seconds": f"{times.evaluation / epochs:.3g}",
        "pace": speed.pace,
        "precision": speed.precision,
        "mixup": f"{MIXUP:g}" if mixed else None,
    }
    name, _, said = parse(evaluate)
    said |= {key: str(value) for key, value in options.items() if value is not None}
    arguments: dict[str, Any] = {
        "space": space,
        "search": "auto:initial=4,candidates=4" + (first and f",first={first}"),
        "evaluate": spell(name, said),
        "scheduler": "fifo",
        "constraint": window and f"limit:of=macs,least={window[0]},most={window[1]}",
        "samples": max(fewest, math.ceil(1.5 * times.samples) if times.samples > 1 else 1),
        "epochs": epochs,
        "select": times.select,
    }
    choices = _choices(times, dataset, hardware, epochs, first)
    if mixed:
        why = f"a typical network sees the images more than {_MIXED:g} times in the retraining"
        choices.append(Choice("mixup", f"{MIXUP:g}", why))
    if speed.precision:
        choices.append(Choice("precision", speed.precision, "the faster one here, measured"))
    if window:
        sizes = " to ".join(f"{macs / 1e6:.3g} M" for macs in window)
        seen = " to ".join(f"{factor * times.suitable:.0f}" for factor in _WINDOW)
        why = f"these see the images about {seen} times in the retraining"
        choices.append(Choice("constraint", f"{sizes} MACs", why))
    return Outline(arguments, times.shares, times.longest, speed.alone, choices)


def _times(
    seconds: float, dataset: Dataset, hardware: Hardware, speed: Speed, epochs: int, fewest: int,
    most_samples: int | None,
) -> Times:  # fmt: skip
    """Divide the time; see rules 2 to 4."""
    left = max(seconds - OPENING - CLOSING, seconds / 2)
    image = speed.typical
    most = dataset.train + dataset.validation
    seen = left * speed.alone / (image * most)
    suitable = min(_SEEN / math.sqrt(most), _RETRAIN_PASSES)
    worthwhile = seen / suitable >= _SCARCE and dataset.validation >= _COMPARABLE
    searches = worthwhile or not speed.known or fewest > 1
    shares = _shares(seen / suitable) if searches else Shares(*_WITHOUT_SEARCH)
    enough = max(_PASSES * dataset.train, _STEPS * speed.batch_size) * image
    judging = epochs * dataset.validation * _JUDGING * image
    searching, rounds = left * shares.search, math.ceil(_FEWEST / hardware.slots)
    least = image * speed.batch_size * _LEAST_STEPS
    one = min(enough, max(searching / rounds - judging, least))
    affordable = searching * hardware.slots / (one + judging)
    samples = (
        int(min(_MOST, max(3.0, affordable + 1e-6))) if searches else 1
    )  # 8 may be a little less
    longest = {
        stage: max(_RETRAIN_PASSES * images, _RETRAIN_STEPS * speed.batch_size) * image
        for stage, images in (
            ("select", dataset.train), ("retrain", most),
        )
    }  # fmt: skip
    return Times(
        seen, suitable, shares, enough, one, samples,
        _candidates(left * shares.select, min(samples, most_samples or samples), one, hardware),
        min(left * shares.retrain * speed.alone, longest["retrain"]), longest,
    )  # fmt: skip


def _choices(
    times: Times, dataset: Dataset, hardware: Hardware, epochs: int, first: str
) -> list[Choice]:
    """Return what is done and why, as far as it is the same in all runs."""
    if times.samples == 1:
        return [
            Choice("search", "none", _why_none(times, dataset)),
            Choice("architecture", first, "a ResNet9 of a size that suits the time gets all of it"),
        ]
    length = f"{epochs} of {times.evaluation / epochs:.3g} s"
    at_once = f"{hardware.slots} at a time, in the search's share"
    selecting = (
        "so many are trained longer, before one of them is chosen"
        if times.select > 1
        else "the search decides: the time is too short to train several again"
    )
    return [
        Choice("time", str(times.shares), _why_shares(times)),
        Choice("epochs", length, _why_epochs(times.evaluation, times.enough)),
        Choice("samples", f"about {times.samples}", at_once),
        Choice("search", "auto", f"first {first or 'four at random'}, from the fifth by surrogate"),
        Choice("scheduler", "fifo", "learning rates fall to 0 within every evaluation"),
        Choice("select", str(times.select), selecting),
    ]


def _shares(times: float) -> Shares:
    """Divide the time, in which a typical network could be trained so many times; see rule 3."""
    plenty = math.log(times / _SCARCE) / math.log(_PLENTY / _SCARCE)
    plenty = min(1.0, max(0.0, plenty))
    return Shares(*(a + (b - a) * plenty for a, b in zip(*_SHARES, strict=True)))


def _candidates(seconds: float, samples: int, one: float, hardware: Hardware) -> int:
    """Return how many trainings of twice an evaluation's length the last decision has time for."""
    affordable = int(seconds / (2 * one)) * hardware.slots
    count = min(affordable, max(2, samples // 4), 4, samples)
    return count if count > 1 else 1


def _window(speed: Speed, seconds: float) -> tuple[int, int] | None:
    """Return the fewest and the most MACs that are searched; see rule 5.

    Args:
        speed: of the networks.
        seconds: for each image, in which a network sees it as often as it should.
    """
    works = sorted([*speed.works, *speed.known.values()], key=lambda work: work.macs)

    def outside(work: Work) -> float:
        """Return how far the network is from seeing the images as often as it should."""
        times = seconds / speed.image_seconds(work)
        return max(0.0, math.log(_WINDOW[0] / times), math.log(times / _WINDOW[1]))

    needed = math.ceil(_SEARCHED * len(works))
    suitable = sum(outside(work) == 0 for work in works)
    searched = sorted(works, key=outside)[: max(needed, suitable)]
    if len(searched) == len(works):
        return None
    return min(work.macs for work in searched), max(work.macs for work in searched)


def _first(speed: Speed, seconds: float, window: tuple[int, int] | None, count: int) -> str:
    """Return the known architectures that are evaluated first, as `auto` takes them."""
    within = window or (0, math.inf)
    texts = [text for text, work in speed.known.items() if within[0] <= work.macs <= within[1]]
    fast = [speed.image_seconds(speed.known[text]) <= seconds for text in texts]
    widest = max(sum(fast) - 1, 0)
    return ";".join(texts[widest : widest + count])


def _why_shares(times: Times) -> str:
    return (
        f"a typical network could see the images {times.seen:.0f} times in all of it, and about"
        f" {times.suitable:.0f} times suit so many"
    )


def _why_none(times: Times, dataset: Dataset) -> str:
    if times.seen / times.suitable < _SCARCE:
        return f"{_why_shares(times)}: too little to compare any"
    points = 200 * math.sqrt(0.5 / dataset.validation)
    return (
        f"{dataset.validation} validation images tell architectures apart only where they differ"
        f" by {points:.0f} points or so"
    )


def _why_epochs(one: float, enough: float) -> str:
    if one >= enough:
        return f"a typical network has seen the images {_PASSES} times by then, in {_STEPS} steps"
    return f"longer would be better, but there would be fewer than {_FEWEST} evaluations"
