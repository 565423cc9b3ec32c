"""The driver of trainings: one Ray Tune trial an architecture."""

import logging
import os
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raynas.drivers.driver import Driver
from raynas.drivers.session import Session
from raynas.drivers.trainable import TrialActor
from raynas.drivers.tune_adapter import TuneCallback, TuneScheduler, TuneSearcher

_WORKER_DEATHS = 3  # before an evaluation whose worker keeps dying counts as failed


class TuneTrials(Driver):
    """Evaluates in Tune trials, on actors that serve one trial after another."""

    def run(self, session: Session) -> None:
        """See `Driver`.

        Raises:
            KeyboardInterrupt: when the user interrupts Tune, which ends quietly then.
        """
        search = session.search
        fit(
            session,
            "evaluation",
            tune.with_parameters(TrialActor, job=session.job),
            TuneSearcher(search),
            TuneScheduler(search),
            TuneCallback(search),
        )
        if not search.exhausted or search.finished < len(search.evaluations):
            raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C


def fit(
    session: Session,
    number: str,
    trainable: Any,
    searcher: Searcher,
    scheduler: TrialScheduler,
    callback: tune.Callback,
) -> None:
    """Run Tune until a searcher has nothing more to suggest.

    Args:
        session: of the run.
        number: which part of a trial's configuration is its number.
        trainable: what a trial is; its actors serve one after another.
        searcher: suggests trials.
        scheduler: hears of results.
        callback: hears of trials that Tune gave up.
    """
    resources = session.resources
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures come as results
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=resources.concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config[number]:05d}",
        ),
        run_config=tune.RunConfig(
            name=f"{len(list(session.folder.tune.glob('*'))):03d}",
            storage_path=str(session.folder.tune),
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
            verbose=0,
        ),
    ).fit()
