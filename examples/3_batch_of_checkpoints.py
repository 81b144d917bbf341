"""A folder of checkpoints as trainers leave it, analysed in batch from the shell, and the results in pandas.

    uv run python examples/3_batch_of_checkpoints.py

A network learns handwritten digits and is saved every so often as `checkpoint-N/model.safetensors`, by torch's names
and in torch's layout. One save is cut short and one was never finished, which stops nothing. The recipe,
3_batch_of_checkpoints.toml, says where each tensor belongs.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import sltjax

HERE = Path(__file__).resolve().parent
RUN = HERE / "batch-run"
STEPS = [0, 10, 20, 40, 70, 100, 150, 200, 300, 400, 600, 800]
NAMES = {"hidden": "fc1", "out": "fc2"}


# What the recipe imports: parameters like those wanted, data, a loss, a metric, and what is done to torch's arrays.
def params():
    first, second = jax.random.split(jax.random.key(0))
    return {
        "hidden": {"kernel": jax.random.normal(first, (64, 16)) / 8, "bias": jnp.zeros(16)},
        "out": {"kernel": jax.random.normal(second, (16, 10)) / 4, "bias": jnp.zeros(10)},
    }


def data():
    images, labels = (half[:600] for half in load_digits(return_X_y=True))
    return {"x": jnp.asarray(images / 16.0, jnp.float32), "y": jnp.asarray(labels)}


def logits(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


loss = sltjax.behavioral_loss(logits, distance=sltjax.kl_divergence)


def training_loss(params, data):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, data), data["y"]).mean()


def turned(name, array):
    """torch holds a weight as [out, in]."""
    return array.T if name.endswith(".weight") else array


def train_and_save(folder):
    """A run that ends as runs do: one file is cut short, and one save was never finished."""
    digits, weights = data(), params()
    optimizer = optax.adam(5e-3)
    state = optimizer.init(weights)

    @jax.jit
    def update(weights, state, key):
        rows = jax.random.randint(key, (64,), 0, len(digits["y"]))
        gradient = jax.grad(training_loss)(weights, jax.tree.map(lambda x: x[rows], digits))
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state

    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            save_like_torch(folder / f"checkpoint-{step}", weights)
        weights, state = update(weights, state, jax.random.key(step))

    broken = folder / f"checkpoint-{STEPS[5]}" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:2000])
    shutil.copytree(folder / f"checkpoint-{STEPS[-1]}", folder / f"tmp-checkpoint-{STEPS[-1] + 200}")


def save_like_torch(folder, weights):
    tensors = {}
    for layer, name in NAMES.items():
        tensors[f"{name}.weight"] = np.ascontiguousarray(weights[layer]["kernel"].T)
        tensors[f"{name}.bias"] = np.asarray(weights[layer]["bias"])
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")


def shell(command, expected=0):
    print(f"\n$ sltjax {command} 3_batch_of_checkpoints.toml", flush=True)
    began = time.perf_counter()
    recipe = HERE / "3_batch_of_checkpoints.toml"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(RUN / "compiled")}
    done = subprocess.run([sys.executable, "-m", "sltjax", command, recipe], env=environment, check=False)
    print(f"exit code {done.returncode}, after {time.perf_counter() - began:.0f} seconds")
    if done.returncode != expected:
        sys.exit(done.returncode or 1)


if __name__ == "__main__":
    if not RUN.exists():
        train_and_save(RUN / "checkpoints")

    shell("plan")
    if not (RUN / "results" / "manifest.json").exists():
        shell("calibrate")
    shell("run", expected=3)  # partial: one checkpoint is broken
    shell("run", expected=3)  # nothing is left to do

    dataset = sltjax.open_results(RUN / "results")
    table = dataset[["step", "llc", "llc_std_error", "status", "ok", "verdict"]].to_dataframe().set_index("step")
    print("\n", table[["llc", "llc_std_error", "status", "ok"]].round(2), "\n", sep="")
    for step, verdict in table["verdict"][~table["ok"]].items():
        print(f"step {step}: {verdict}")
