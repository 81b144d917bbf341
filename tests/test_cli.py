import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from orbax import checkpoint as ocp
from typer.testing import CliRunner

import sltjax
from sltjax.cli import INTERRUPTED, PARTIAL, app

MODEL = """
import jax.numpy as jnp
import numpy as np

def apply(params, batch):
    return batch["x"] @ params["a"] @ params["b"]

import sltjax
loss = sltjax.behavioral_loss(apply)

def data():
    x = np.random.default_rng(0).normal(size=(64, 3))
    return {"x": jnp.asarray(x, jnp.float32)}

def norm(params, data):
    return jnp.linalg.norm(params["a"] @ params["b"])
"""

RECIPE = """
title = "A tiny run"
[problem]
loss = "cli_model:loss"
data = "cli_model:data"
metrics = { norm = "cli_model:norm" }
[checkpoints]
path = "checkpoints"
[sampling]
num_draws = DRAWS
batch_size = 32
block_size = 4
"""


@pytest.fixture
def run_folder(tmp_path):
    """A user's folder: a module, a recipe, ten Orbax checkpoints."""
    (tmp_path / "cli_model.py").write_text(MODEL)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("DRAWS", "50"))
    rng = np.random.default_rng(1)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        for step in range(0, 100, 10):
            weights = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(2, 3))}
            saved = {"params": {name: np.float32(w) for name, w in weights.items()}, "opt_state": np.ones(3)}
            manager.save(step, args=ocp.args.StandardSave(saved))
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def break_checkpoint(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"<html>404</html>")


def test_run_writes_everything_and_resumes(run_folder):
    result = invoke("run", run_folder / "recipe.toml")
    assert result.exit_code == 0, result.output
    results = run_folder / "results"
    for name in ("dataset.nc", "stages.csv", "development.png", "report.html", "manifest.json"):
        assert (results / name).stat().st_size > 0
    with sltjax.open_results(results) as dataset:
        assert dataset["step"].values.tolist() == list(range(0, 100, 10))
        assert np.isfinite(dataset["llc"]).all()
        assert dataset["norm"].attrs["role"] == "metric"
    assert "A tiny run" in (results / "report.html").read_text()

    units = {path: path.stat().st_mtime_ns for path in (results / "units").iterdir()}
    assert len(units) == 10
    assert invoke("run", run_folder / "recipe.toml").exit_code == 0
    assert units == {path: path.stat().st_mtime_ns for path in (results / "units").iterdir()}

    (results / "report.html").unlink()
    assert invoke("report", results).exit_code == 0
    assert (results / "report.html").exists()


def test_a_broken_checkpoint_makes_it_partial(run_folder):
    break_checkpoint(run_folder / "checkpoints" / "30")
    result = invoke("run", run_folder / "recipe.toml")
    assert result.exit_code == PARTIAL, result.output
    with sltjax.open_results(run_folder / "results") as dataset:
        failed = dataset["status"] == "failed"
        assert dataset["step"].values[failed].tolist() == [30]
        assert np.isnan(dataset["llc"].values[failed]).all()
        assert np.isfinite(dataset["llc"].values[~failed]).all()
        assert str(dataset["verdict"].values[failed][0]) != ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('path = "checkpoints"', 'path = "nowhere"'), "nowhere"),
        (("batch_size = 32", "batch_size = 65"), "64 examples"),
        (('loss = "cli_model:loss"', 'loss = "cli_model:norm"'), "one loss an example"),
    ],
)
def test_mistakes_end_in_a_sentence(run_folder, change, said):
    recipe = run_folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(*change))
    result = invoke("run", recipe)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_another_definition_is_refused_with_the_difference(run_folder):
    recipe = run_folder / "recipe.toml"
    assert invoke("run", recipe).exit_code == 0
    before = (run_folder / "results" / "dataset.nc").read_bytes()
    recipe.write_text(recipe.read_text().replace("[checkpoints]", "gamma = 5.0\n[checkpoints]"))
    result = invoke("run", recipe)
    assert result.exit_code == 1
    assert "definition.gamma: stored 1.0, asked 5.0" in result.output
    assert (run_folder / "results" / "dataset.nc").read_bytes() == before


@pytest.mark.slow
def test_interrupting_keeps_what_is_done_and_says_so(run_folder):
    (run_folder / "recipe.toml").write_text(RECIPE.replace("DRAWS", "20000"))
    command = [sys.executable, "-m", "sltjax", "run", str(run_folder / "recipe.toml")]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, text=True)
    units = run_folder / "results" / "units"
    deadline = time.monotonic() + 240
    while not (units.is_dir() and any(units.glob("*.npz"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED
    assert "the same command goes on from here" in errors
    assert 4 <= len(list(units.glob("*.npz"))) < 10


def test_help_names_the_commands():
    text = invoke("--help").output
    for command in ("demo", "run", "report"):
        assert command in text
