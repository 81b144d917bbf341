"""SPEED.md, out of what the others measured: `python benchmarks/speed.py` after any of them.

overhead.py, scaling.py, against_peers.py, to_error.py and startup.py each write a file of numbers; what has not been
run yet is left out, or said to be so.
"""

import statistics
from pathlib import Path
from typing import Any

import against_peers
import overhead
import scaling
import startup
import to_error
from results import load, of_device, other_devices, write

TABLE = Path(__file__).parent / "SPEED.md"
PEERS_TOLD = """Chain-steps a second, and how many times that sltjax takes with the same SGLD: by its better noise;
and by ±1 noise and products in bfloat16 (`in_precision`), which neither peer has. sltjax has the cores as jax's devices
(`jax_num_cpu_devices`), the peers have them as threads. devinterp runs one chain after another: its rate at 4 lanes
stands for more of them. Compilation is left out."""
AGREEMENT_TOLD = """λ̂ at the same ε, γ, nβ and lengths, far from settled, ± by the spread of 16 chains and, of peers, by
what batches differ: the same law."""


def ratios(found: dict[str, Any]) -> str:
    lines = ["| | seconds a step | over the bare gradient | quartiles |", "|---|---|---|---|"]
    for name, (seconds, middle, low, high) in found.items():
        lines.append(f"| {name} | {seconds:.3g} | {middle:.2f} | {low:.2f} – {high:.2f} |")
    return "\n".join(lines)


def against(found: dict[str, Any]) -> str:
    """A row a task: chain-steps a second of each, and how many times that of the peers."""
    names = list(next(iter(found.values())))
    lines = [f"| task | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    rates: dict[str, float] = {}  # of few lanes hold for more in a library that runs one after another
    for task, entry in found.items():
        rates |= {name: statistics.median(each["rate"]) for name, each in entry.items()}
        best = max(rates[name] for name in names[:2])
        by = [best, rates[against_peers.ROUGH]]
        cells = [_rate(rates[name], [] if name.startswith("sltjax") else by) for name in names]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def not_run(found: dict[str, Any]) -> list[str]:
    names = [f"{task.name}, {lanes} lanes" for task in against_peers.tasks() for lanes in task.lanes]
    missing = [name for name in names if name not in found]
    return [f"Not run yet: {'; '.join(missing)}."] if missing else []


def _rate(rate: float, ours: list[float]) -> str:
    times = "; ".join(f"× {each / rate:.1f}" for each in ours)
    return f"{rate:,.{0 if rate >= 100 else 1}f}" + (f" ({times})" if times else "")


def agreement(found: dict[str, Any]) -> str:
    """A row a task: λ̂ of each."""
    names = list(next(iter(found.values())))
    lines = [f"| task | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for task, entry in found.items():
        cells = [f"{entry[name][0]:.4g} ± {entry[name][1]:.2g}" for name in names]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def of_steps(steps: Path, sizes: Path, mark: str) -> list[str]:
    """What overhead.py and scaling.py found on one device, under headings that begin with a mark."""
    found = load(steps)
    sections = [found.pop("machine")] if found else []
    for name, entry in found.items():
        memories = ", ".join(f"{sampler} {ratio}" for sampler, ratio in entry["memory"].items())
        sections.append(
            f"{mark} One step over the bare gradient: {name}\n\n{ratios(entry['ratios'])}\n\n"
            f"Memory a lane, of its parameters and gradient (anchored; data apart): {memories}."
        )
    if load(sizes):
        sections += [f"{mark} As chains, checkpoints, parameters and data grow", scaling.section(sizes)]
    return sections


def text() -> str:
    peers = load(against_peers.FILE)
    sections = ["# Speed", *of_steps(overhead.FILE, scaling.FILE, "##")]
    if peers:
        sections += [
            "## Against peers",
            PEERS_TOLD,
            against(peers),
            *not_run(peers),
            AGREEMENT_TOLD,
            agreement(load(against_peers.AGREEMENT)),
        ]
    if load(startup.FILE):
        sections += ["## Starting", startup.section()]
    if load(to_error.FILE):
        _, _, *told = (to_error.__doc__ or "").strip().split("\n\n")
        sections += ["## Seconds to a standard error of 2 %", *told, to_error.section()]
    for device, steps in other_devices(overhead.FILE).items():
        sections += [f"## On {device}", *of_steps(steps, of_device(scaling.FILE, device), "###")]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    write(TABLE, text())
