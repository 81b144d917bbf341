"""A small run to try the rest on: trains the network of model.py and saves it 16 times as step_N.npz.

python make_run.py
"""

from pathlib import Path

import jax
import numpy as np
import optax
from model import data, init, training_loss

FOLDER = Path(__file__).resolve().parent / "cluster-run" / "checkpoints"
STEPS = [0, 20, 40, 60, 90, 120, 160, 200, 260, 320, 400, 500, 640, 800, 1000, 1200]

FOLDER.mkdir(parents=True, exist_ok=True)
examples, params = data(), init(jax.random.key(0))
optimizer = optax.adam(1e-2)
state = optimizer.init(params)


@jax.jit
def update(params, state):
    updates, state = optimizer.update(jax.grad(training_loss)(params, examples), state)
    return optax.apply_updates(params, updates), state


for step in range(STEPS[-1] + 1):
    if step in STEPS:
        arrays = {f"{layer}/{name}": array for layer, arrays in params.items() for name, array in arrays.items()}
        np.savez(FOLDER / f"step_{step:06d}.npz", **arrays)
    params, state = update(params, state)
print(f"{len(STEPS)} checkpoints in {FOLDER}, training loss {training_loss(params, examples):.4f}")
