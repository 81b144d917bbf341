"""Compiles the programs of a sweep for accelerators that are not there: benchmarks/AHEAD_OF_TIME.md.

`uv run --extra tpu --with jax-cuda13-plugin==JAX python benchmarks/ahead_of_time.py`, JAX being the version of jax that
is installed, writes the table in some minutes. It takes compilers alone, in wheels of about 200 MB for TPU and for CUDA
each; no accelerator, driver or toolkit. It fails if lanes communicate.
"""

import math
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before the first import of jax: the accelerators are not asked for
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor the cloud, which of them this is

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import sltjax
from sltjax.devices import AXES, Partition
from sltjax.losses import kl_divergence
from sltjax.sampling import bytes_on_a_device, lower_block
from sltjax.schedule import Schedule
from sltjax.types import Batch, Loss, Params, Sampler

TABLE = Path(__file__).parent / "AHEAD_OF_TIME.md"
LOWERED, COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration"
CHAINS = 4
FUNCTIONS = {"condition": "jit(_condition_all)", "start": "jit(_start)", "advance": "jit(_advance)"}
COLUMNS = (
    "problem",
    "mesh",
    "program",
    "compiling, CPU s",
    "MiB of arguments",
    "temporary",
    "in all",
    "of a device",
    "collectives",
)
LANES, SPLIT = (4, 1, 1), (2, 1, 2)
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  device_memory_size: 84929347584  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
"""


@dataclass(frozen=True)
class Target:
    """Four devices, of so many bytes each, as their compiler knows them."""

    name: str
    memory: int
    topology: Callable[[], Any]

    def mesh(self, shape: tuple[int, ...]) -> Mesh:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=self.topology().devices)


TARGETS = (
    Target("TPU v5e, 2 × 2", 16 * 2**30, lambda: get_topology_desc("v5e:2x2", "tpu")),
    Target("TPU v6e, 2 × 2", 32 * 2**30, lambda: get_topology_desc("v6e:2x2", "tpu")),
    Target(
        "NVIDIA H100, 4", 84929347584, lambda: get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x4")
    ),
)


@dataclass(frozen=True)
class Problem:
    """What is sampled, in shapes: `width` checkpoints at once."""

    name: str
    loss: Loss
    params: Params
    data: Batch
    sampler: Sampler
    batch_size: int
    width: int
    partition: Partition | None = None


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def linear_network() -> Problem:
    """The demo's, with its sampler."""

    def loss(params: Params, batch: Batch) -> jax.Array:
        return jnp.sum((batch["x"] @ params["first"] @ params["second"] - batch["y"]) ** 2, axis=1) / 2

    params = {"first": floats(10, 4), "second": floats(4, 10)}
    data = {"x": floats(20_000, 10), "y": floats(20_000, 10)}
    sampler = sltjax.GHMC(0.5, preconditioner=sltjax.newton(1.0))
    return Problem("linear network 10-4-10", loss, params, data, sampler, 20_000, 64)


def classifier() -> Problem:
    def loss(params: Params, batch: Batch) -> jax.Array:
        hidden = jax.nn.relu(batch["image"] @ params["w"] + params["b"])
        log_p = jax.nn.log_softmax(hidden @ params["v"] + params["c"])
        return -jnp.take_along_axis(log_p, batch["label"][:, None], axis=1)[:, 0]

    params = {"w": floats(784, 128), "b": floats(128), "v": floats(128, 10), "c": floats(10)}
    data = {"image": floats(60_000, 784), "label": integers(60_000)}
    return Problem("classifier 784-128-10", loss, params, data, sltjax.UnderdampedLangevin(1e-3), 512, 64)


def transformer() -> Problem:
    """Two layers of attention alone, measured by its own behaviour; heads, and embeddings, may be split."""
    width, heads, length, vocabulary = 256, 8, 128, 5000
    head = width // heads

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return scale * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)

    def apply(params: Params, tokens: Batch) -> jax.Array:
        x = params["embed"][tokens] + params["position"]
        for layer in params["layers"]:
            q, k, v = jnp.einsum("bsd,cdhe->cbhse", norm(x, layer["scale"]), layer["qkv"])
            scores = jnp.einsum("bhse,bhte->bhst", q, k) / math.sqrt(head)
            attention = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e30))
            x += jnp.einsum("bhst,bhte,hed->bsd", attention, v, layer["out"])
        return norm(x, params["scale"]) @ params["unembed"]

    layer = {"qkv": floats(3, width, heads, head), "out": floats(heads, head, width), "scale": floats(width)}
    split = {"qkv": P(None, None, "model"), "out": P("model"), "scale": P()}
    embeddings = {"embed": floats(vocabulary, width), "position": floats(length, width)}
    return Problem(
        "transformer, 2 layers",
        sltjax.behavioral_loss(apply, distance=kl_divergence),
        {**embeddings, "layers": [layer, layer], "scale": floats(width), "unembed": floats(width, vocabulary)},
        integers(100_000, length),
        sltjax.UnderdampedLangevin(1e-3),
        32,
        8,
        {
            "embed": P(None, "model"),
            "position": P(),
            "layers": [split, split],
            "scale": P(),
            "unembed": P(None, "model"),
        },
    )


PROBLEMS = (linear_network(), classifier(), transformer())


@dataclass(frozen=True)
class Program:
    """What is known of it once it is compiled; bytes are those of a device."""

    name: str
    seconds: float
    arguments: int
    temporaries: int
    whole: int
    collectives: Counter[tuple[str, str, str]]


class Seconds(dict[str, float]):
    """What the compiler took for each function, in seconds of the processor, which do not tell of what else it does."""

    began = 0.0

    def listen(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == LOWERED:
            self.began = time.process_time()
        elif event == COMPILED:
            self[kwargs["fun_name"]] = time.process_time() - self.began


CALL = re.compile(r" ((?:ragged-)?all-[a-z-]+|reduce-scatter[a-z-]*|collective-[a-z-]+|send|recv)\(.*")
LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}")
COUNTED = re.compile(r"replica_groups=\[(.*?)\]<=\[(.*?)\](?:T\((.*?)\))?")
NAMED = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")


def collectives(program: str, mesh: tuple[int, ...]) -> Counter[tuple[str, str, str]]:
    """Those in the text of a program: (kind, axes of the mesh along which it goes, operation it is for) -> how many."""
    found: Counter[tuple[str, str, str]] = Counter()
    for call in CALL.finditer(program):
        kind = call[1].removesuffix("-start")
        if not kind.endswith("-done"):
            places = np.stack(np.unravel_index(groups(call[0], math.prod(mesh)), mesh))  # [axis, group, member]
            along = " and ".join(axis for axis, place in zip(AXES, places, strict=True) if np.ptp(place, axis=1).any())
            operation = re.search(r'op_name="[^"]*?([^/"]*)"', call[0])
            found[kind, along, operation[1] if operation else "no operation"] += 1
    return found


def groups(call: str, num_devices: int) -> np.ndarray:
    """The devices that communicate with one another, [group, member], however the compiler writes them."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", text)]

    if listed := LISTED.search(call):
        return np.array([numbers(group) for group in listed[1].split("},{")])
    if counted := COUNTED.search(call):
        shape, over, order = (numbers(part or "") for part in counted.groups())
        return np.arange(num_devices).reshape(over).transpose(order or None).reshape(shape)
    if named := NAMED.search(call):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        along = [list(sizes).index(axis) for axis in re.findall(r"'(\w+)'", named[2])]
        ids = np.arange(num_devices).reshape([int(size) for size in sizes.values()])
        return np.moveaxis(ids, along, range(-len(along), 0)).reshape(-1, math.prod(ids.shape[axis] for axis in along))
    return np.arange(num_devices)[None]  # all of them


def measure(target: Target, problem: Problem, shape: tuple[int, ...], seconds: Seconds) -> Iterator[Program]:
    """Compile the programs of a block, while `seconds` listens."""
    posterior = sltjax.LocalPosterior(problem.loss, problem.params, nbeta=1000.0, gamma=1.0)
    schedule = Schedule(CHAINS, num_draws=2000, burn_in=1000, thin=2, batch_size=problem.batch_size)
    what = (posterior, problem.width, problem.sampler, problem.data, schedule)
    partition = problem.partition if shape == SPLIT else None
    for name, lowered in lower_block(*what, mesh=target.mesh(shape), partition=partition).items():
        compiled = lowered.compile()
        used: Any = compiled.memory_analysis()
        sizes = (used.argument_size_in_bytes, used.temp_size_in_bytes, bytes_on_a_device(compiled))
        yield Program(name, seconds[FUNCTIONS[name]], *sizes, collectives(compiled.as_text(), shape))


def line(target: Target, problem: Problem, shape: tuple[int, ...], program: Program) -> str:
    kinds: Counter[str] = Counter()
    for (kind, _, _), count in program.collectives.items():
        kinds[kind] += count
    cells = [
        problem.name,
        " × ".join(map(str, shape)),
        program.name,
        f"{program.seconds:.1f}",
        *(f"{size / 2**20:,.1f}" for size in (program.arguments, program.temporaries, program.whole)),
        f"{program.whole / target.memory:.1%}",
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "0",
    ]
    return f"| {' | '.join(cells)} |"


def table(target: Target, seconds: Seconds) -> str:
    """What there is to say of a target.

    Raises:
        AssertionError: lanes communicate.
    """
    lines, operations = [], Counter[str]()
    for problem in PROBLEMS:
        for shape in (LANES, SPLIT) if problem.partition else (LANES,):
            for program in measure(target, problem, shape, seconds):
                for (kind, along, operation), count in program.collectives.items():
                    assert along == "model", f"{target.name}, {problem.name}, {program.name}: {kind} along {along}"
                    operations[operation] += count
                lines.append(line(target, problem, shape, program))
                print(lines[-1], flush=True)
    asked = ", ".join(f"{name} {count}" for name, count in operations.most_common())
    return f"""## {target.name}

Of {target.memory / 2**30:.0f} GiB each. Collectives by the operation that they are for: {asked}.

| {" | ".join(COLUMNS)} |
{"|---" * len(COLUMNS)}|
{chr(10).join(lines)}
"""


def row(problem: Problem) -> str:
    size = sum(math.prod(w.shape) for w in jax.tree.leaves(problem.params))
    sampler = type(problem.sampler).__name__
    return f"| {problem.name} | {size:,} | {problem.width} × {CHAINS} | {sampler} | {problem.batch_size:,} |"


def versions() -> str:
    """The compilers.

    Raises:
        SystemExit: one is missing.
    """
    try:
        return ", ".join(f"{name} {version(name)}" for name in ("jax", "libtpu", "jax-cuda13-plugin"))
    except PackageNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed; run\n\n    uv run --extra tpu --with jax-cuda13-plugin=={jax.__version__} "
            "python benchmarks/ahead_of_time.py"
        ) from None


def main() -> None:
    compilers = versions()
    seconds = Seconds()
    jax.monitoring.register_event_duration_secs_listener(seconds.listen)
    tables = [table(target, seconds) for target in TARGETS]
    TABLE.write_text(f"""# Compiled for accelerators that are not there

The programs of a sweep, compiled ahead of time for meshes of four devices by `python benchmarks/ahead_of_time.py` on
{platform.machine()}, Python {platform.python_version()}, {compilers}. Nothing is run: memory is what the compiler
plans, and seconds are those of the processor that it took itself, over all its threads.

A *mesh* is checkpoint × chain × model. Of the three programs, *condition* reads the data at the checkpoints, *start*
makes the chains, and *advance*, which runs again and again, draws a chunk. *MiB* are those of one device: arguments,
temporaries, and all with results. *Collectives* stand in the text of the program; those in a loop run each time round.

Along "checkpoint" and "chain" there are none: the script fails if there is one. Where the transformer is split along
"model", its heads, the width of its embedding and its vocabulary lie on two devices, and what sums over one of these,
or needs the whole of it, asks for a collective; and *sharding_constraint*, at the end of a chunk, brings what the
partition does not split whole to either device again. A device then holds half of each of twice as many checkpoints.

| problem | parameters | checkpoints × chains | sampler | batch |
|---|---|---|---|---|
{chr(10).join(map(row, PROBLEMS))}

{chr(10).join(tables)}""")


if __name__ == "__main__":
    main()
