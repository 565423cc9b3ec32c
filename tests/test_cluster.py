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
from ray._private.utils import check_version_info
from ray.autoscaler._private.util import prepare_config, validate_config
from typer.testing import CliRunner

import raynas
from raynas.cli import app
from raynas.cluster import ENVIRONMENT, connected, resources, slots
from raynas.drivers.concurrency import Concurrency
from raynas.errors import RaynasError

ROOT = Path(__file__).parents[1]

TWO_RAYLETS = """
import json, logging, os, sys, threading, time
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
        deadline = time.monotonic() + 200
        while len(list(FOLDER.glob("*.seen"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)  # until a trial runs on the other node, however slowly that starts
        self.epoch += 1
        return {"val_accuracy": 0.5, "node": node}

class WhereEvaluator(Evaluator):
    def trial(self, space, arch, data, epochs, seed, device):
        return Where()

    def retraining(self, space, arch, data, epochs, seed, device):
        return None

def search(results):
    results.append(raynas.run(
        space="nasbench201:channels=4,cells=1", data="digits:fraction=0.3", search="random",
        evaluate=WhereEvaluator(), scheduler="fifo", samples=8, epochs=2,
        storage_path=FOLDER, name="two",
    ))

if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    cluster = Cluster()
    cluster.add_node(num_cpus=1)
    if sys.argv[2] == "from the start":
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    results = []
    searching = threading.Thread(target=search, args=(results,))  # nodes need the main thread
    searching.start()
    if sys.argv[2] == "in mid-search":
        while not list(FOLDER.glob("*.seen")):
            time.sleep(0.05)
        cluster.add_node(num_cpus=1)
    searching.join()
    nodes = [int(n["NodeID"][:8], 16) for n in ray.nodes() if n["Alive"]]
    used = results[0].trials["node"].value_counts().to_dict()
    print(json.dumps({"nodes": nodes, "used": {int(k): int(v) for k, v in used.items()}}))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("second", ["from the start", "in mid-search"])
def test_two_raylets_share_a_search(tmp_path, second):
    """The first epoch of a trial ends when one runs on the other node, too."""
    script = tmp_path / "two_raylets.py"
    script.write_text(TWO_RAYLETS)
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as own:  # short, for sockets
        done = subprocess.run(
            [sys.executable, script, tmp_path, second], capture_output=True, text=True, timeout=500,
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


def test_a_cluster_of_other_versions_is_refused_with_the_remedy(monkeypatch):
    """In the words of Ray's own check, as `ray.init` raises it."""
    versions = {"ray_version": "2.40.0", "python_version": "3.9.1"}

    def init(**options):
        check_version_info(versions, "node 10.0.0.1")

    monkeypatch.setattr("raynas.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("raynas.cluster.ray.init", init)
    with pytest.raises(RaynasError) as caught, connected():
        pass
    message = str(caught.value)
    assert "Ray: 2.40.0 Python: 3.9.1 This process on node 10.0.0.1" in message
    assert "Install those of the cluster here" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("InvalidAuthToken: Authentication token is missing or incorrect", "RAY_AUTH_TOKEN"),
        ("Failed to connect to GCS", "Is RAY_ADDRESS right?"),
    ],
)
def test_what_ray_prints_while_it_connects_becomes_the_remedy(monkeypatch, capfd, line, remedy):
    """As a cluster with a token makes it: a warning a second, past Python's standard error."""

    def init(**options):
        for _ in range(30):
            os.write(2, f"[W 1 1] gcs_client.cc:210: {line}\n".encode())
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr("raynas.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("raynas.cluster.ray.init", init)
    with pytest.raises(RaynasError, match=r"10\.0\.0\.1:6379") as caught, connected():
        pass
    assert remedy in str(caught.value)
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_the_address_on_the_command_line_is_rays(monkeypatch):
    seen = []
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    monkeypatch.setattr(raynas, "run", lambda **_: seen.append(os.environ["RAY_ADDRESS"]))
    CliRunner().invoke(app, ["run", "--address", "10.0.0.1:6379"])
    assert seen == ["10.0.0.1:6379"]


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


def test_trials_follow_a_cluster_that_changes(monkeypatch):
    nodes = [2]
    clock = [100.0]
    monkeypatch.setattr(
        "raynas.cluster.ray.nodes",
        lambda: [{"Resources": {"CPU": n}, "Alive": True} for n in nodes],
    )
    monkeypatch.setattr("raynas.drivers.concurrency.time.monotonic", lambda: clock[0])
    concurrency = Concurrency(resources(1, 0, None), None)
    assert concurrency() == 2
    for held, expected in (([2, 4], 6), ([4], 4), ([], 4)):  # with none, those that wait stay
        nodes[:] = held
        clock[0] += 3
        assert concurrency() == expected
    nodes[:] = [8]
    assert Concurrency(resources(1, 0, 3), 3)() == 3  # as the user wants
    assert resources(1, 0, 3).concurrent == 3
    assert resources(1, 0, 20).concurrent == 8
    assert resources(1, 0, 20, workers=3).concurrent == 2  # all of whose workers there are


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("raynas.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("raynas.cluster.ray.init", lambda **_: pytest.fail("Ray would wait"))
    with pytest.raises(RaynasError, match=r"nobody answers at .* RAY_ADDRESS=local"), connected():
        pass
