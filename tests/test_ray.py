"""Blocks on a Ray cluster of two nodes, one of which is killed.

Run as a script, `python test_ray.py ROLE FOLDER`, this file is the process that drives the cluster.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

STEPS = tuple(range(0, 80, 10))


def drive(role, folder):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    command = [sys.executable, __file__, role, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def expected():
    import sltjax

    return sweep(sltjax.sweeps.local)


@pytest.mark.slow
def test_a_node_killed_in_mid_run_costs_its_blocks_time_alone(tmp_path):
    said = drive("kill", tmp_path)
    assert "killed a node with" in said
    import xarray as xr

    found = xr.load_dataset(tmp_path / "dataset.nc", engine="h5netcdf")
    assert found.step.values.tolist() == list(STEPS)  # all of them, and none twice
    assert (found.status == "done").all()
    np.testing.assert_array_equal(found.delta_loss, expected().delta_loss)


@pytest.mark.slow
def test_what_is_known_is_not_sampled_and_a_poisoned_block_fails_alone(tmp_path):
    said = drive("poison", tmp_path)
    assert "statuses: done done done failed done done done done" in said
    assert "its worker was lost 2 times" in said
    assert "then: done done done done done done done done" in said
    assert "sampled again: [30]" in said


def test_without_ray_there_is_a_word_about_it(monkeypatch):
    import sltjax

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "sltjax\[ray\]"'):
        sweep(sltjax.sweeps.Ray())


# What the processes do


class Checkpoints:
    """Three numbers a step; loading step 30 kills the process while `poison` is there."""

    name, skipped, steps = "memory", (), STEPS

    def __init__(self, poison=None, pause=0.0):
        self.poison, self.pause, self.driver = poison, pause, os.getpid()

    def load(self, step):
        if os.getpid() != self.driver:
            time.sleep(self.pause)
            if self.poison and step == 30 and self.poison.exists():
                os._exit(1)
        return {"w": np.float32([0.01 * step, -0.5, 1.0])}


def loss(params, batch):
    return ((params["w"] - batch) ** 2).sum(axis=1) / 2


def sweep(engine, store=None, checkpoints=None):
    import jax

    import sltjax

    data = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    lengths = {"num_chains": 2, "num_draws": 20, "burn_in": 10, "thin": 1, "block_size": 1}
    return sltjax.sweep(
        jax.random.key(0),
        loss,
        checkpoints or Checkpoints(),
        data,
        store=store,
        sampler=sltjax.LeimkuhlerMatthews(0.01),
        engine=engine,
        **lengths,
    )


def cluster():
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    return started, started.add_node(num_cpus=1)


def kill(folder):
    """A node dies when two units are there, with a block running on it."""
    from sltjax.sweeps import Ray

    nodes, second = cluster()

    def watch():
        while len(list((folder / "units").glob("[0-9]*.npz"))) < 2:
            time.sleep(0.05)
        nodes.remove_node(second, allow_graceful=False)
        print("killed a node with", len(list((folder / "units").glob("[0-9]*.npz"))), "units done")

    watcher = threading.Thread(target=watch)
    watcher.start()
    sweep(Ray(address=nodes.address), folder, Checkpoints(pause=1.0))
    watcher.join()
    nodes.shutdown()


def poison(folder):
    import ray

    from sltjax.sweeps import Ray

    ray.init("local", num_cpus=1, log_to_driver=False)  # of its own, though another test may have one
    marker = folder / "poison"
    marker.write_text("")
    engine = Ray(retries=1, environment={"SLTJAX_TEST": "1"})
    found = sweep(engine, folder / "store", Checkpoints(marker))
    print("statuses:", *found.status.values)
    print(found.verdict.values[3])
    marker.unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "store" / "units").iterdir()}
    found = sweep(engine, folder / "store", Checkpoints(marker))
    print("then:", *found.status.values)
    after = {path: path.stat().st_mtime_ns for path in (folder / "store" / "units").iterdir()}
    print("sampled again:", [int(path.stem) for path in after if before.get(path) != after[path]])
    ray.shutdown()


if __name__ == "__main__":
    {"kill": kill, "poison": poison}[sys.argv[1]](Path(sys.argv[2]))
