"""Several nodes: a search uses them all; cluster.yaml is one that Ray accepts."""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
import yaml
from conftest import SMALL
from ray.autoscaler._private.util import prepare_config, validate_config

from raynas.cluster import ENVIRONMENT, connected, slots
from raynas.errors import RaynasError

ROOT = Path(__file__).parents[1]

TWO_RAYLETS = """
import json, logging, os, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from raynas.cluster import ENVIRONMENT
import raynas
from trials.trial import Evaluator, Trial

FOLDER = Path(sys.argv[1])

class Where(Trial):
    epochs = 2
    def step(self):
        node = int(ray.get_runtime_context().get_node_id()[:8], 16)
        (FOLDER / f"{node}.seen").touch()
        deadline = time.monotonic() + 120
        while len(list(FOLDER.glob("*.seen"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)  # until a trial runs on the other node, however slowly that starts
        self.epoch += 1
        return {"val_accuracy": 0.5, "node": node}

class WhereEvaluator(Evaluator):
    def trial(self, space, arch, data, epochs, seed, device):
        return Where()

    def retraining(self, space, arch, data, epochs, seed, device):
        return None

if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    result = raynas.run(
        space="nasbench201:channels=4,cells=1", data="digits:fraction=0.3", search="random",
        evaluate=WhereEvaluator(), scheduler="fifo", samples=8, epochs=2,
        storage_path=FOLDER, name="two",
    )
    nodes = [int(n["NodeID"][:8], 16) for n in ray.nodes() if n["Alive"]]
    used = result.trials["node"].value_counts().to_dict()
    print(json.dumps({"nodes": nodes, "used": {int(k): int(v) for k, v in used.items()}}))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
def test_two_raylets_share_a_search(tmp_path):
    script = tmp_path / "two_raylets.py"
    script.write_text(TWO_RAYLETS)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:  # short, for sockets
        done = subprocess.run(
            [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=240,
            env=environment | {"RAY_TMPDIR": own},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert len(answer["nodes"]) == 2
    assert set(answer["used"]) == {str(node) for node in answer["nodes"]}
    assert sum(answer["used"].values()) == 8


@pytest.mark.slow  # Ray tries for 30 s
def test_a_cluster_that_is_gone_is_named_with_the_remedy(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:
        Path(own, "ray").mkdir()
        Path(own, "ray", "ray_current_cluster").write_text("127.0.0.1:1")
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-m", "raynas", "run", "--samples", "1", "--storage-path", tmp_path],
            capture_output=True, text=True, timeout=120,
            env=environment | {"RAY_TMPDIR": own, "RAY_gcs_rpc_server_connect_timeout_s": "1",
                 "RAY_NUM_REDIS_GET_RETRIES": "1"},
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert "RAY_ADDRESS=local" in done.stderr


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "expected"),
    [
        ({"CPU": 8, "GPU": 1.0}, 0.1, 0.2, 5),
        ({"CPU": 8, "GPU": 1.0}, 1, 0.1, 8),
        ({"CPU": 0.3}, 0.1, 0, 3),
        ({"CPU": 8}, 3, 0, 2),
        ({"CPU": 8, "GPU": 2.0}, 1, 0.3, 6),
    ],
)
def test_slots_of_fractions(monkeypatch, node, cpus, gpus, expected):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Resources": node, "Alive": True}])
    assert slots(cpus, gpus) == (gpus, expected)


def test_cluster_yaml_passes_rays_own_check():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    validate_config(prepare_config(config))


def test_cluster_yaml_names_what_the_checkout_has():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert set(config["file_mounts"].values()) == {"."}
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    (install,) = [c for c in config["setup_commands"] if "pip install" in c]
    (wanted,) = re.findall(r"'\.\[(.*?)\]'", install)
    assert set(wanted.split(",")) <= set(extras)


def test_cluster_yaml_has_a_head_without_trials_and_workers_that_come_and_go():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert 1 <= worker["min_workers"] < worker["max_workers"] <= config["max_workers"]


def test_rayjob_has_what_cluster_yaml_has():
    job = yaml.safe_load((ROOT / "docs/cluster/kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] >= 1
    for template in (cluster["headGroupSpec"], group):
        (container,) = template["template"]["spec"]["containers"]
        names = {variable["name"] for variable in container["env"]}
        assert names <= set(ENVIRONMENT)


@pytest.fixture
def slurm(tmp_path):
    """The commands of SLURM that the batch script calls, on an allocation of two nodes."""
    tools = {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "scontrol": f'[ "$1" = show ] && echo one && echo two || echo "$@" >> {tmp_path}/queued',
        "hostname": "echo 127.0.0.1",
    }
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return {
        **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "RAYNAS": str(Path(sys.executable).parent),
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": str(ROOT), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "RAY_TMPDIR": tempfile.mkdtemp(dir="/tmp"),
    }  # fmt: skip


@pytest.mark.slow
def test_slurm_script_runs_a_search_on_all_nodes_of_the_allocation(slurm, tmp_path):
    command = ["bash", str(ROOT / "docs/cluster/slurm.sbatch"), "run"]
    for key, value in {**SMALL, "epochs": 1, "samples": 3, "storage_path": tmp_path}.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    done = subprocess.run(
        [*command, "--name", "run"], env=slurm, cwd=tmp_path, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "run/journal/events.jsonl").read_text().splitlines()
    assert len(json.loads(lines[0])["nodes"]) == 2
    assert json.loads(lines[-1])["event"] == "complete"
    assert not (tmp_path / "queued").exists()


def test_ray_that_takes_too_long_to_start_is_started_again(monkeypatch):
    tries = []

    def init(**options):
        tries.append(options)
        if len(tries) < slow:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr("raynas.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("raynas.cluster.ray.init", init)
    monkeypatch.setattr("raynas.cluster.ray.shutdown", lambda: None)
    slow = 2
    with connected():
        assert len(tries) == 2
    tries.clear()
    slow = 3
    with pytest.raises(RaynasError, match="did not start on this machine in time"), connected():
        pass
    assert len(tries) == 2
