"""The same model, data, batch, chains, ε, γ and nβ in sltjax and in its peers: chain-steps a second, and λ̂ of each.

    bash benchmarks/peers/install.sh FOLDER
    python benchmarks/against_peers.py FOLDER        # some minutes a task; writes its .json, speed.py the table

Time is a slope: a long run less a short one, over the steps between them, so that compilation and preparation count
for nobody; they are told apart. Runs of all libraries take turns, and medians are over the turns. sltjax has the cores
as jax's devices, which chains share (`jax_num_cpu_devices`); the peers have them as threads. That all sample the same
law is asserted on short runs of equal length, of chains enough for an error of some percent; of sltjax with products in
bfloat16, too.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results import add, load

import sltjax
from sltjax.samplers import rademacher

FILE = Path(__file__).parent / "against_peers.json"
AGREEMENT = Path(__file__).parent / "agreement.json"
PEERS = {"canonical-interp 0.2.7": "canonical_interp", "devinterp 2.0.1": "devinterp"}
ONE_BY_ONE = "devinterp 2.0.1"
ROUGH = "sltjax, ±1 noise, bfloat16"
SCRIPTS = {"canonical_interp": "canonical_interp.py", "devinterp": "devinterp_.py"}
TURNS, SECONDS = 3, 3.0
AGREEING, SIGMAS = 16, 4.0  # chains whose λ̂ are compared, and the standard errors that they may lie apart

Run = Callable[[int, int, int, int], dict[str, Any]]
"""(chains, draws, burn_in, seed) -> {"seconds", "llcs"}."""


@dataclass(frozen=True)
class Task:
    """A model at its minimum.

    Attributes:
        name: with its sizes.
        params: name -> weights, as the peers' tasks.py reads them.
        apply: (params, x) -> outputs.
        losses: (outputs, y) -> [batch].
        data: x and y.
        settings: what all are told.
        lanes: how many chains to try.
        short: draws of a short run of the fewest lanes; half as many steps go before.
    """

    name: str
    params: dict[str, jax.Array]
    apply: Callable[..., jax.Array]
    losses: Callable[..., jax.Array]
    data: dict[str, jax.Array]
    settings: dict[str, Any]
    lanes: tuple[int, ...]
    short: int = 100

    def loss(self, params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
        return self.losses(self.apply(params, batch["x"]), batch["y"])


def dense(key: jax.Array, widths: tuple[int, ...], biases: bool) -> dict[str, jax.Array]:
    keys = jax.random.split(key, len(widths))
    sizes = list(pairwise(widths))
    params = {f"weight{k}": jax.random.normal(keys[k], size) / math.sqrt(size[0]) for k, size in enumerate(sizes)}
    return params | ({f"bias{k}": jnp.zeros(size[1]) for k, size in enumerate(sizes)} if biases else {})


def feed_forward(params: dict[str, jax.Array], x: jax.Array, activation: bool) -> jax.Array:
    last = sum(name.startswith("weight") for name in params) - 1
    for k in range(last + 1):
        x = x @ params[f"weight{k}"]
        x = x + params[f"bias{k}"] if f"bias{k}" in params else x
        x = jnp.tanh(x) if activation and k < last else x
    return x


def squared(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((outputs - y) ** 2, axis=-1) / 2


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[..., None], axis=-1)[..., 0]


def next_token(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(cross_entropy(outputs, y), axis=-1)


def transformer(key: jax.Array, vocabulary: int, width: int, layers: int, length: int) -> dict[str, jax.Array]:
    keys = iter(jax.random.split(key, 4 * layers + 3))
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    params = {
        f"{k}_{name}": jax.random.normal(next(keys), size) / math.sqrt(size[0])
        for k in range(layers)
        for name, size in sizes.items()
    }
    edges = {"embed": (vocabulary, width), "position": (length, width), "unembed": (width, vocabulary)}
    return params | {name: 0.1 * jax.random.normal(next(keys), size) for name, size in edges.items()}


def run_transformer(w: dict[str, jax.Array], tokens: jax.Array, heads: int) -> jax.Array:
    def normed(x: jax.Array) -> jax.Array:
        return jax.nn.standardize(x, epsilon=1e-5)

    # rows of all positions: the gradient of a product over two axes would have XLA's CPU compiler transpose it first
    x = (w["embed"][tokens] + w["position"][: tokens.shape[-1]]).reshape(tokens.size, -1)
    for k in range(sum(name.endswith("qkv") for name in w)):
        parts = jnp.split(normed(x) @ w[f"{k}_qkv"], 3, axis=-1)
        q, keys, v = (part.reshape(*tokens.shape, heads, -1) for part in parts)
        mixed = jax.nn.dot_product_attention(q, keys, v, is_causal=True)
        x = x + mixed.reshape(x.shape) @ w[f"{k}_out"]
        x = x + jax.nn.gelu(normed(x) @ w[f"{k}_up"]) @ w[f"{k}_down"]
    return (normed(x) @ w["unembed"]).reshape(*tokens.shape, -1)


def tasks() -> list[Task]:
    keys = jax.random.split(jax.random.key(0), 12)
    made = []

    def add_task(
        name: str, params: Any, apply: Any, losses: Any, data: Any, lanes: tuple[int, ...], short: int = 100, **own: Any
    ) -> None:
        n = len(data["x"])
        settings = {"gamma": 1.0, "nbeta": n / math.log(n), **own}
        made.append(Task(name, params, apply, losses, data, settings, lanes, short))

    params, x = dense(keys[0], (8, 64, 64, 1), True), jax.random.normal(keys[1], (1024, 8))
    y = feed_forward(params, x, True) + 0.1 * jax.random.normal(keys[2], (1024, 1))
    own = {"kind": "mlp", "loss": "squared", "batch_size": 128, "step_size": 1e-5}
    apply = partial(feed_forward, activation=True)
    add_task("MLP 8-64-64-1, batch 128", params, apply, squared, {"x": x, "y": y}, (4, 16, 64), **own)

    params, x = dense(keys[3], (784, 128, 10), True), jax.random.uniform(keys[4], (8192, 784))
    y = jax.random.categorical(keys[5], feed_forward(params, x, True))
    own = {"kind": "mlp", "loss": "cross_entropy", "batch_size": 512, "step_size": 1e-6}
    add_task("MLP 784-128-10, batch 512", params, apply, cross_entropy, {"x": x, "y": y}, (4, 16, 64), **own)

    params, x = dense(keys[6], (500, 500, 500, 500, 500), False), jax.random.normal(keys[7], (4096, 500))
    linear = partial(feed_forward, activation=False)
    own = {"kind": "linear", "loss": "squared", "batch_size": 512, "step_size": 1e-7}
    add_task("deep linear, 1M, batch 512", params, linear, squared, {"x": x, "y": linear(params, x)}, (4,), 10, **own)

    params = transformer(keys[8], 5000, 192, 2, 128)
    tokens = jax.random.randint(keys[9], (512, 129), 0, 5000)
    own = {"kind": "transformer", "loss": "next_token", "batch_size": 8, "step_size": 1e-4, "heads": 4}
    data = {"x": tokens[:, :-1], "y": tokens[:, 1:]}
    apply = partial(run_transformer, heads=4)
    add_task("transformer 2.8M, 8 × 128 tokens", params, apply, next_token, data, (4,), 4, **own)
    return made


def ours(task: Task, noise: Callable[..., Any], anchored: bool = False, is_rough: bool = False) -> Run:
    nbeta, gamma = task.settings["nbeta"], task.settings["gamma"]
    loss = sltjax.in_precision(task.loss) if is_rough else task.loss
    posterior = sltjax.LocalPosterior(loss, task.params, nbeta, gamma, anchored=anchored)
    sampler = sltjax.SGLD(task.settings["step_size"], noise=noise)

    def run(chains: int, draws: int, burn_in: int, seed: int) -> dict[str, Any]:
        began = time.perf_counter()
        lengths = {"num_chains": chains, "num_draws": draws, "burn_in": burn_in}
        size = task.settings["batch_size"]
        trace = sltjax.sample(jax.random.key(seed), posterior, sampler, task.data, **lengths, batch_size=size)
        return {"seconds": time.perf_counter() - began, "llcs": (nbeta * trace["delta_loss"].mean(axis=1)).tolist()}

    return run


def theirs(folder: Path, peer: str, file: Path) -> Run:
    script = Path(__file__).parent / "peers" / SCRIPTS[peer]
    command = [str(folder / peer / "bin" / "python"), str(script), str(file)]
    told = file.with_name(f"{peer}.log").open("w+")  # progress bars, and what went wrong
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": told}
    process = subprocess.Popen(command, **pipes, text=True, env=environment)

    def run(chains: int, draws: int, burn_in: int, seed: int) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is None:
            request = {"chains": chains, "draws": draws, "burn_in": burn_in, "seed": seed}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        told.seek(0)
        raise RuntimeError(f"{peer} ended with {process.wait()}: {told.read()[-2000:]}")

    return run


def save(task: Task, file: Path) -> None:
    arrays = {name: np.asarray(w) for name, w in task.params.items()}
    np.savez(
        file, x=np.asarray(task.data["x"]), y=np.asarray(task.data["y"]), settings=json.dumps(task.settings), **arrays
    )


def measure(runs: dict[str, Run], lanes: int, short: int) -> dict[str, Any]:
    """name -> first run (with compilation), draws of a long one, chain-steps a second at each turn."""
    found: dict[str, Any] = {}
    lengths, burn_in = {}, short // 2
    for name, run in runs.items():
        first = run(lanes, short, burn_in, 0)["seconds"]
        run(lanes, 4 * short, burn_in, 0)  # compiled before it is timed
        trial = run(lanes, 4 * short, burn_in, 0)["seconds"] - run(lanes, short, burn_in, 0)["seconds"]
        each = max(trial, 1e-3) / (3 * short)
        lengths[name] = short + max(3 * short, min(int(SECONDS / each), 100_000) // short * short)
        run(lanes, lengths[name], burn_in, 0)  # compiles what a longer run has of its own
        found[name] = {"first": round(first, 2), "draws": lengths[name], "rate": []}
    for turn in range(1, TURNS + 1):
        for name, run in runs.items():
            brief, long = (run(lanes, draws, burn_in, turn)["seconds"] for draws in (short, lengths[name]))
            steps = lanes * (lengths[name] - short)
            found[name]["rate"].append(round(steps / (long - brief), 1))
    return found


def compare(task: Task, runs: dict[str, Run]) -> dict[str, list[float]]:
    """name -> [λ̂, its standard error] of runs of equal length, of the samplers that are to have the same law.

    Peers take the losses of batches less one of all data: what examples differ by is in their errors, for their chains
    share it.

    Raises:
        AssertionError: two lie apart by more than their errors tell.
    """
    draws = 4 * task.short
    losses = jax.jit(task.loss)(task.params, jax.tree.map(lambda x: x[:512], task.data))
    of_batches = task.settings["nbeta"] * float(losses.std()) / math.sqrt(draws * task.settings["batch_size"])
    found = {}
    for name, run in runs.items():
        llcs = run(AGREEING, draws, draws // 2, 0)["llcs"]
        of_chains = float(np.std(llcs, ddof=1) / math.sqrt(AGREEING))
        found[name] = [float(np.mean(llcs)), math.hypot(of_chains, of_batches if name in PEERS else 0)]
    for (a, (x, dx)), (b, (y, dy)) in combinations(found.items(), 2):
        assert abs(x - y) < SIGMAS * math.hypot(dx, dy), f"{a}: {x} ± {dx}, but {b}: {y} ± {dy}"
    return found


def main(folder: Path) -> None:
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    for task in tasks():
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "task.npz"
            save(task, file)
            runs = {
                "sltjax, ±1 noise": ours(task, rademacher),
                "sltjax": ours(task, sltjax.samplers.gaussian),
                "sltjax, anchored": ours(task, sltjax.samplers.gaussian, anchored=True),
                ROUGH: ours(task, rademacher, is_rough=True),
                **{name: theirs(folder, peer, file) for name, peer in PEERS.items()},
            }
            if task.name not in load(AGREEMENT):
                same = {name: run for name, run in runs.items() if not name.endswith("anchored")}
                add(AGREEMENT, task.name, compare(task, same))
                print(task.name, load(AGREEMENT)[task.name], flush=True)
            for lanes in task.lanes:
                name = f"{task.name}, {lanes} lanes"
                # devinterp runs one chain after another: its chain-steps a second are those of few lanes
                taking_part = {each: run for each, run in runs.items() if lanes == task.lanes[0] or each != ONE_BY_ONE}
                if name not in load(FILE):
                    short = max(4, task.short * task.lanes[0] // lanes)  # as many chain-steps
                    add(FILE, name, measure(taking_part, lanes, short))
                    print(name, json.dumps(load(FILE)[name], indent=1), flush=True)


def folder_told(doc: str | None) -> Path:
    """The folder of the peers' environments, which a script is given.

    Args:
        doc: its documentation.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where `bash benchmarks/peers/install.sh FOLDER` put the peers")
    folder: Path = parser.parse_args().folder
    if missing := [peer for peer in SCRIPTS if not (folder / peer).is_dir()]:
        parser.error(f"{folder} holds no {' and no '.join(missing)}: bash benchmarks/peers/install.sh {folder}")
    return folder


if __name__ == "__main__":
    main(folder_told(__doc__))
