"""Cheap evaluations in batches: `raynas.score`, warm starts, and searches by proxies and tables."""

import math
import os
import signal

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from journal_lines import read_events

import raynas
import search_spaces
from raynas.config.resolve import resolve
from raynas.errors import ConfigurationMismatch, InvalidArgument, SearchFailed
from trials.data import load
from trials.proxies.scoring import Scorer
from trials.trial import Estimator

SPACE = "nasbench201:channels=2,cells=1"


class Deadly(Estimator):
    """Kills its process at one architecture; tells the number of choices that are 3 of others."""

    def open(self, space, data, seed, device):
        def estimate(arch):
            if arch.choices[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if arch.choices[0] == 1:
                raise RuntimeError("no such thing")
            return {"val_accuracy": sum(choice == 3 for choice in arch.choices) / 6}

        return estimate


def test_scores_are_those_of_the_scorer_and_equal_cells_are_scored_once(local_ray, tmp_path):
    space = search_spaces.get(SPACE)
    texts = [
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|",
        "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|",
        "|nor_conv_1x1~0|+|none~0|nor_conv_3x3~1|+|none~0|none~1|skip_connect~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ]
    path = tmp_path / "scores.parquet"
    frame = raynas.score(SPACE, "digits", texts, batch_size=32, path=path)
    scorer = Scorer(space, load("digits", seed=0), batch_size=32)
    assert list(frame["architecture"]) == texts
    assert frame["naswot"][0] == frame["naswot"][1]
    assert frame["naswot"][2] == pytest.approx(scorer.score(space.from_string(texts[2])))
    assert len(pd.read_parquet(path)) == 3
    again = raynas.score(SPACE, "digits", texts, batch_size=32, path=path)
    pd.testing.assert_frame_equal(frame, again)
    with pytest.raises(ConfigurationMismatch, match="batch_size was 32, is 16"):
        raynas.score(SPACE, "digits", texts, batch_size=16, path=path)
    by_macs = raynas.score(SPACE, "digits", texts, proxy="macs", batch_size=32)
    assert by_macs["macs"][2] == space.macs(space.from_string(texts[2]), (1, 8, 8), 10)


def test_scores_of_one_space_are_not_taken_for_those_of_another(tmp_path):
    texts = ["|nor_conv_3x3~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"]
    path = tmp_path / "scores.parquet"
    raynas.score(SPACE, "digits", texts, "params", path=path)
    with pytest.raises(ConfigurationMismatch, match="space was 'nasbench201:channels=2"):
        raynas.score("nasbench201:channels=4,cells=1", "digits", texts, "params", path=path)


def test_draws_are_different_and_repeat_with_the_seed(local_ray):
    one, two = (raynas.score(SPACE, "digits", 12, "macs", seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    space = search_spaces.get(SPACE)
    assert len({space.canonical(space.from_string(text)) for text in one["architecture"]}) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 5000}, "batch_size=5000 is not in 1..1151"),
        ({"proxy": "nasswot"}, "Did you mean 'naswot'"),
        ({"architectures": 0}, "architectures=0 must be at least 1"),
        ({"architectures": []}, "none are given"),
        ({"architectures": ["|x|"]}, "nasbench201"),
        ({"data": "digitz"}, "Did you mean 'digits'"),
        ({"space": 5}, "space=5 is neither a name nor"),
        ({"path": "no/such/folder.parquet"}, "the folder does not exist"),
    ],
)
def test_bad_input_is_named_before_anything_starts(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        raynas.score(**{"space": SPACE, "data": "digits", "architectures": 3, **arguments})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_kills_its_worker_fails_alone_and_the_search_goes_on(local_ray, tmp_path):
    result = raynas.run(
        **{**SMALL, "samples": 24, "epochs": 1}, search="random", evaluate=Deadly(),
        storage_path=tmp_path, name="deadly",
    )  # fmt: skip
    trials = result.trials
    first = trials["architecture"].str.split("~").str[0]
    died = trials[first == "|none"]
    assert len(died) > 0
    assert died["reason"].str.startswith("worker died").all()
    raised = trials[first == "|skip_connect"]
    assert (raised["reason"] == "RuntimeError: no such thing").all()
    rest = trials[~first.isin(["|none", "|skip_connect"])]
    assert (rest["status"] == "completed").all()
    assert result.best.metrics["val_accuracy"] == rest["val_accuracy"].max()


@pytest.mark.slow
def test_a_proxy_can_judge_a_whole_search(local_ray, tmp_path):
    result = raynas.run(
        **{**SMALL, "samples": 15}, search="local", evaluate="proxy:naswot,batch_size=16",
        storage_path=tmp_path, name="proxy",
    )  # fmt: skip
    assert result.metric == "naswot"
    assert result.trials["naswot"].notna().all()
    assert "val_accuracy" not in result.trials.dropna(axis="columns", how="all")
    assert result.best.metrics["naswot"] == result.trials["naswot"].max()
    assert 0 <= result.best.metrics["test_accuracy"] <= 1
    report = (result.path / "report.html").read_text()
    assert "naswot, in the search" in report
    again = raynas.run(
        **{**SMALL, "samples": 15}, search="local", evaluate="proxy:naswot,batch_size=16",
        storage_path=tmp_path, name="proxy",
    )  # fmt: skip
    pd.testing.assert_frame_equal(result.trials, again.trials)


def test_a_table_can_judge_a_search_and_only_what_it_has_is_searched(local_ray, tmp_path):
    space = search_spaces.get(SMALL["space"])
    archs = [space.to_string(arch) for arch in list(space)[::491]]
    values = np.linspace(0.1, 0.9, len(archs))
    frame = pd.DataFrame({"cell": archs, "accuracy": values, "seconds": 5.0})
    frame.to_parquet(tmp_path / "t.parquet")
    result = raynas.run(
        **{**SMALL, "samples": 60}, search="auto", storage_path=tmp_path, name="table",
        evaluate=f"table:{tmp_path}/t.parquet,architecture=cell,metric=accuracy,cost=seconds",
    )  # fmt: skip
    trials = result.trials.set_index("architecture")
    known = dict(zip((space.canonical(space.from_string(a)) for a in archs), values, strict=True))
    for text, value in trials["val_accuracy"].items():
        assert known[space.canonical(space.from_string(text))] == pytest.approx(value)
    assert len(trials) == len(known)  # all there is, and then the search ends
    assert (trials["cost_seconds"] == 5).all()
    assert result.best.metrics["val_accuracy"] == pytest.approx(0.9)


@pytest.mark.slow
def test_a_warm_start_is_scored_once_and_kept_in_the_journal(local_ray, tmp_path):
    arguments = {
        **SMALL, "samples": 2, "epochs": 1, "search": "area:population=2,candidates=5",
        "scheduler": "fifo", "storage_path": tmp_path, "name": "area",
    }  # fmt: skip
    result = raynas.run(**arguments)
    events = read_events(result.path)
    scored = {e["architecture"]: e["score"] for e in events if e["event"] == "scored"}
    assert len(scored) == 5
    best = sorted(scored, key=lambda text: -scored[text])[:2]
    assert list(result.trials["architecture"]) == best
    extended = raynas.run(**{**arguments, "samples": 3})
    events = read_events(extended.path)
    assert sum(e["event"] == "scored" for e in events) == 5
    assert len(extended.trials) == 3


def width(network, images, labels):
    """A proxy of the user's own."""
    return sum(parameter.shape[0] for parameter in network.parameters())


def nothing(network, images, labels):
    """What it returns is no number."""


@pytest.mark.parametrize(
    ("argument", "value", "text"),
    [
        ("evaluate", raynas.Proxy(width), "proxy:proxy=function-width-"),
        ("search", raynas.Auto(proxy=width), "auto:initial=4,candidates=60,proxy=function-width-"),
        ("search", raynas.Naswot(proxy=width), "naswot:candidates=100,proxy=function-width-"),
        (
            "search",
            raynas.Evolution(warm_start=raynas.Naswot(7, width)),
            "evolution:population=10,sample=3,warm_start=function-width-",
        ),
        ("search", raynas.Area(warm_start=width), "area:population=10,sample=3,warm_start=funct"),
        (
            "search",
            raynas.NeighborhoodAware(raynas.Auto(proxy=width)),
            f"neighborhood:inner=auto:proxy=function-{__name__}.width,",
        ),
    ],
)
def test_an_own_proxy_is_part_of_the_configuration(argument, value, text):
    config = resolve({"name": "x", argument: value}).config
    assert getattr(config, argument).startswith(text)


@pytest.mark.parametrize("proxy", [3, "naswto"])
def test_what_is_no_proxy_is_refused_when_a_searcher_is_made(proxy):
    for argument, make in {
        "proxy": lambda: raynas.Naswot(proxy=proxy),
        "proxy ": lambda: raynas.Auto(proxy=proxy),
        "warm_start": lambda: raynas.Evolution(warm_start=proxy),
    }.items():
        with pytest.raises(InvalidArgument, match=f"^{argument.strip()}={proxy!r}"):
            make()


def test_scores_by_an_own_proxy(local_ray, tmp_path):
    space = search_spaces.get(SPACE)
    texts = [space.to_string(space.sample(np.random.default_rng(seed))) for seed in range(3)]
    path = tmp_path / "scores.parquet"
    frame = raynas.score(SPACE, "digits", texts, width, path=path)
    assert list(frame) == ["architecture", "width", "reason"]
    scorer = Scorer(space, load("digits", seed=0), width)
    assert list(frame["width"]) == [scorer.score(space.from_string(text)) for text in texts]
    pd.testing.assert_frame_equal(raynas.score(SPACE, "digits", texts, width, path=path), frame)
    with pytest.raises(
        ConfigurationMismatch, match=r"proxy was 'function-width-.*function-nothing"
    ):
        raynas.score(SPACE, "digits", texts, nothing, path=path)
    failed = raynas.score(SPACE, "digits", texts[:1], nothing)
    assert "nothing returned None. It must return one number" in failed["reason"][0]


def test_an_own_proxy_begins_and_judges_a_search(local_ray, tmp_path):
    arguments = {
        **SMALL, "search": raynas.Evolution(population=2, warm_start=width, candidates=5),
        "evaluate": raynas.Proxy(width), "epochs": 1, "storage_path": tmp_path, "name": "own",
    }  # fmt: skip
    result = raynas.run(**arguments)
    assert result.metric == "width"
    scored = {e["architecture"]: e["score"] for e in read_events(result.path) if "score" in e}
    best = sorted(scored, key=lambda text: -scored[text])[:2]
    assert list(result.trials["architecture"][:2]) == best
    assert list(result.trials["width"][:2]) == [scored[text] for text in best]
    with pytest.raises(InvalidArgument, match=r"search was an object.*resume"):
        raynas.resume(result.path)
    with pytest.raises(ConfigurationMismatch, match="function-nothing"):
        raynas.run(**{**arguments, "evaluate": raynas.Proxy(nothing)})


def test_a_warm_start_that_cannot_be_scored_ends_the_run_and_is_tried_again(local_ray, tmp_path):
    arguments = {
        **SMALL,
        "search": raynas.Naswot(3, nothing),
        "storage_path": tmp_path,
        "name": "x",
    }
    for _ in range(2):
        with pytest.raises(SearchFailed, match=r"by the function nothing.*must return one number"):
            raynas.run(**arguments)
    assert not any(event["event"] == "scored" for event in read_events(tmp_path / "x"))


@pytest.mark.slow
def test_naswot_trains_nothing_but_its_choice(local_ray, tmp_path):
    result = raynas.run(
        **{**SMALL, "epochs": 1}, search="naswot:candidates=6,proxy=synflow",
        storage_path=tmp_path, name="naswot",
    )  # fmt: skip
    scored = [e for e in read_events(result.path) if e["event"] == "scored"]
    assert len(result.trials) == 1
    best = max(scored, key=lambda e: e["score"])
    assert result.best.architecture == best["architecture"]
    assert all(math.isfinite(e["score"]) or e["score"] == -math.inf for e in scored)


@pytest.mark.slow
def test_promoted_trials_go_on_from_where_they_were_stopped(local_ray, tmp_path):
    result = raynas.run(
        **{**SMALL, "samples": 6, "epochs": 4}, search="random", max_concurrent=2,
        scheduler="asha:reduction=2,variant=promotion", storage_path=tmp_path, name="promotion",
    )  # fmt: skip
    trials = result.trials
    promoted = [e["evaluation"] for e in read_events(result.path) if e["event"] == "promoted"]
    assert len(promoted) >= 3
    assert sorted(trials["epochs"].unique()) == [1, 2, 4]
    assert (trials["epochs"] >= 2).sum() >= 3
    assert trials["curve"].map(len).equals(trials["epochs"])
    assert not trials["status"].isin(["running", "failed"]).any()
    assert result.best.metrics["epochs"] == 4
