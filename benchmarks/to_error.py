"""Seconds to a standard error of 2 % of λ, everything counted, on linear networks with label noise.

    python benchmarks/to_error.py FOLDER        # as for against_peers.py; writes to_error.json, speed.py the table

sltjax is a new process each time: interpreter, imports, reading, calibration, compilation and chains, with no setting
but the error; and one that finds all programs compiled (`jax_compilation_cache_dir`). (!) marks what carries a
warning. Its peers run plain SGLD at a step size that the user must find. Here they are told the best one, the largest
at which the bias of SGLD is within 2 % (found by long runs against GHMC on all the data), and how many steps it
takes: what their standard error and their start from w* ask for. Their seconds are these steps at their own measured
rate, and one compilation; × is by our first figure. Nobody is told this in earnest: the second figure is that of all
the step sizes tried, each for as long as its own error asks.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import against_peers
import heat
import jax
import numpy as np
from results import add, load

import sltjax
from sltjax.posterior import default_nbeta

FILE = Path(__file__).parent / "to_error.json"
CASES = {case.name: case for case in heat.CASES if case.noise}
ERROR, SEEDS, CHAINS = 0.02, 3, 4
STEP_SIZES = (1e-6, 2e-6, 4e-6, 8e-6, 1.6e-5, 3.2e-5, 6.4e-5)
DRAWS, THIN = 2000, 64  # of the long runs, with as much before them
BURN_IN = 5  # autocorrelation times before a chain is recorded


ESTIMATE = """
import json, os, sys
import jax
import jax.numpy as jnp
import numpy as np
import sltjax

jax.config.update("jax_num_cpu_devices", os.cpu_count())
file, seed, gamma, error = sys.argv[1:]
with np.load(file) as saved:
    data, params = {name: saved[name] for name in ("x", "y")}, [saved["first"], saved["second"]]

def loss(params, batch):
    return jnp.sum((batch["x"] @ params[0] @ params[1] - batch["y"]) ** 2, axis=-1) / 2

key = jax.random.key(int(seed))
found = sltjax.estimate_llc(key, loss, params, data, gamma=float(gamma), error=float(error))
print(json.dumps({"value": found.value, "std_error": found.std_error, "ok": found.health.ok}))
"""  # what a new process does, which reads the weights and the data from a file


def timed(case: heat.Case, file: Path, seed: int, programs: str = "") -> dict[str, Any]:
    """Seconds of a new process, which keeps its compiled programs in a folder if one is given, and what it found."""
    command = [sys.executable, "-c", ESTIMATE, str(file), str(seed), str(case.gamma), str(ERROR)]
    kept = {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    began = time.perf_counter()
    environment = os.environ | (kept if programs else {})
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return {"seconds": round(time.perf_counter() - began, 1), **json.loads(told.splitlines()[-1])}


def ours(case: heat.Case) -> dict[str, list[dict[str, Any]]]:
    """Of new processes that compile, and of those that find all programs compiled."""
    built = case.build()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.npz"
        np.savez(file, first=built.params[0], second=built.params[1], **built.data)
        for seed in range(SEEDS):
            timed(case, file, seed, folder)
        again = [timed(case, file, seed, folder) for seed in range(SEEDS)]
        return {"sltjax": [timed(case, file, seed) for seed in range(SEEDS)], "sltjax again": again}


def plain(case: heat.Case, step_size: float, reference: float) -> dict[str, float]:
    """SGLD as peers run it, for long: its bias, and the chain-steps to the error asked for."""
    built = case.build()
    nbeta = default_nbeta(built.num_examples)
    posterior = sltjax.LocalPosterior(built.loss, built.params, nbeta, case.gamma, anchored=False)
    lengths = {"num_draws": DRAWS, "burn_in": DRAWS * THIN, "thin": THIN, "batch_size": case.batch_size}
    sampler = sltjax.SGLD(step_size)
    trace = sltjax.sample(jax.random.key(0), posterior, sampler, built.data, num_chains=CHAINS, **lengths)
    found = sltjax.llc({"delta_loss": trace["delta_loss"]}, nbeta)
    steps = CHAINS * DRAWS * THIN
    settling = BURN_IN * steps / found.health.ess  # of each chain
    needed = steps * (found.std_error / (ERROR * reference)) ** 2
    return {
        "value": float(found.value),
        "std_error": float(found.std_error),
        "bias": float(found.value / reference - 1),
        "chain_steps": float(needed + CHAINS * settling),
    }


def as_task(case: heat.Case, step_size: float) -> against_peers.Task:
    """The case as the peers read it."""
    built = case.build()
    params = {f"weight{k}": w for k, w in enumerate(built.params)}
    own = {"kind": "linear", "loss": "squared", "batch_size": case.batch_size, "step_size": step_size}
    settings = {"gamma": case.gamma, "nbeta": default_nbeta(built.num_examples), **own}
    return against_peers.Task(case.name, params, None, None, built.data, settings, (CHAINS,))  # type: ignore[arg-type]


def rates(case: heat.Case, step_size: float, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "task.npz"
        task = as_task(case, step_size)
        against_peers.save(task, file)
        runs = {name: against_peers.theirs(folder, peer, file) for name, peer in against_peers.PEERS.items()}
        return against_peers.measure(runs, CHAINS, task.short)


def measure(name: str, folder: Path) -> dict[str, Any]:
    case = CASES[name]
    cold = heat.cold(case.build(), case.gamma)
    tried = {str(step_size): plain(case, step_size, cold.value) for step_size in STEP_SIZES}
    near = [size for size, found in tried.items() if abs(found["bias"]) <= ERROR + found["std_error"] / cold.value]
    chosen = max(near, key=float)
    peers = rates(case, float(chosen), folder)
    return {
        "reference": [cold.value, cold.std_error],
        **ours(case),
        "sgld": tried,
        "chosen": chosen,
        "peers": {
            peer: {
                "rate": float(np.median(each["rate"])),
                "seconds": each["first"] + tried[chosen]["chain_steps"] / float(np.median(each["rate"])),
            }
            for peer, each in peers.items()
        },
    }


def section() -> str:
    """A row a problem."""
    peers = list(against_peers.PEERS)
    heads = ["problem", "λ̂ of all data", "sltjax", "its λ̂", "plain SGLD: ε, bias, chain-steps", *peers]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, entry in load(FILE).items():
        value, error = entry["reference"]
        seconds, again = (
            float(np.median([each["seconds"] for each in entry[which]])) for which in ("sltjax", "sltjax again")
        )
        found = ", ".join(map(_marked, entry["sltjax"]))
        sgld = entry["sgld"][entry["chosen"]]
        told = f"{entry['chosen']}, {sgld['bias']:+.1%}, {sgld['chain_steps']:,.0f}"
        cells = [name, f"{value:.2f} ± {error:.2f}", f"{seconds:.1f} s; {again:.1f} s", found, told]
        cells += [_seconds_of(each, entry["sgld"], sgld["chain_steps"], seconds) for each in entry["peers"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _marked(each: dict[str, Any]) -> str:
    return f"{each['value']:.2f} ± {each['std_error']:.2f}" + " (!)" * (not each["ok"])


def _seconds_of(peer: dict[str, float], tried: dict[str, dict[str, float]], steps: float, ours: float) -> str:
    """Of a peer, told its step size and looking for it; and how many times ours."""
    all_steps = sum(found["chain_steps"] for found in tried.values())
    told, looking = peer["seconds"], peer["seconds"] + (all_steps - steps) / peer["rate"]
    return f"{told:,.0f} s (× {told / ours:.1f}); {looking:,.0f} s (× {looking / ours:.1f})"


def main(folder: Path) -> None:
    for name in CASES:
        if name not in load(FILE):
            add(FILE, name, measure(name, folder))
            print(name, json.dumps(load(FILE)[name], indent=1), flush=True)


if __name__ == "__main__":
    main(against_peers.folder_told(__doc__))
