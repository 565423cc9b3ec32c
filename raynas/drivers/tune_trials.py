"""The driver of trainings: one Ray Tune trial an architecture."""

import logging
import os

from ray import tune

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
        search, resources = session.search, session.resources
        trainable = tune.with_resources(
            tune.with_parameters(TrialActor, job=session.job),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures come as results
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.concurrent)
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=TuneSearcher(search),
                scheduler=TuneScheduler(search),
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['evaluation']:05d}",
            ),
            run_config=tune.RunConfig(
                name=f"{len(list(session.folder.tune.glob('*'))):03d}",
                storage_path=str(session.folder.tune),
                callbacks=[TuneCallback(search)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=_WORKER_DEATHS),
                verbose=0,
            ),
        ).fit()
        if not search.exhausted or search.finished < len(search.evaluations):
            raise KeyboardInterrupt  # Tune ends quietly on the first Ctrl-C
