"""What all tests share."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

import raynas
from raynas.cluster import ENVIRONMENT
from raynas.record.models import has_onnx

SMALL = {
    "space": "nasbench201:channels=4,cells=1",
    "data": "digits:fraction=0.3",
    "samples": 4,
    "epochs": 2,
}


#: No test joins a cluster that runs on the machine, or one that Ray's notes still name.
os.environ["RAY_ADDRESS"] = "local"

# Other tests run beside on the second core, and threads that wait for each other spin.
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give all files that need a cluster to one process, so that one cluster serves them all."""
    from xdist.scheduler import LoadScopeScheduling  # without --numprocesses it is not needed

    tests = Path(__file__).parent
    clustered = {file.name for file in tests.glob("*.py") if "local_ray" in file.read_text()}

    class OneCluster(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, _ = nodeid.partition("::")
            return "cluster" if Path(file).name in clustered else nodeid

    return OneCluster(config, log)


@pytest.fixture(scope="session")
def local_ray():
    """One Ray with two CPUs for all tests of the process."""
    # The workers must find the classes that tests define, and the packages of this checkout.
    tests = Path(__file__).parent
    os.environ.update(ENVIRONMENT, PYTHONPATH=f"{tests}{os.pathsep}{tests.parent}")
    ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def without_onnx():
    """ONNX takes seconds; only the run that `finished` gives exports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raynas.record.models.has_onnx", lambda: False)
        yield


@pytest.fixture(scope="session")
def finished(local_ray, tmp_path_factory):
    """A finished run that tests may read and must not change."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raynas.record.models.has_onnx", has_onnx)
        return raynas.run(**SMALL, search="evolution", storage_path=folder, name="finished")


@pytest.fixture
def image_folder(tmp_path):
    """A folder of two class folders with 40 small images each, told apart by brightness."""
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(40):
            pixels = np.clip(rng.normal(level, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i:03d}.png")
    return tmp_path / "images"
