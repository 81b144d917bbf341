"""The registry of sources: whatever enters here inherits every law of test_sources.py."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

from sltjax.checkpoints import from_npz, from_orbax, from_safetensors
from sltjax.checkpoints.leaves import flatten

STEPS = (2, 10, 100)


@dataclass(frozen=True)
class SourceCase:
    """One layout of one kind of storage.

    Attributes:
        open: (root, like=None) -> the source.
        write: (root, name, params) -> writes the checkpoint of that name, and returns a file that weights lie in.
        name: what a checkpoint is called, to be formatted with its step.
        twin: another name for the same step.
        temporary: what one is called that was never finished.
        write_unfinished: writes that, if it differs in more than its name.
    """

    open: Callable[..., Any]
    write: Callable[[Path, str, Any], Path]
    name: str
    twin: str
    temporary: str
    write_unfinished: Callable[[Path, str, Any], Any] | None = None

    def write_run(self, root, steps=STEPS):
        """Write a run, and return the file of each step that weights lie in."""
        Path(root).mkdir(parents=True, exist_ok=True)
        return {step: self.write(root, self.name.format(step), make_params(step)) for step in steps}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense": {"kernel": rng.normal(size=(70, 5)).astype(np.float32), "bias": np.ones(5, jnp.bfloat16)},
        "layers": [{"w": rng.normal(size=3)}, {"w": np.zeros(2, np.float16)}, {"w": np.float32(seed)}],
    }


def named(params, separator):
    """Leaves by name, as exporters flatten trees."""
    return {separator.join(map(str, path)): np.asarray(leaf) for path, leaf in flatten(params).items()}


def listing(root):
    """Whatever tells that a folder was written to."""
    return {p: (p.lstat().st_mtime_ns, p.lstat().st_size, p.is_symlink()) for p in sorted(Path(root).rglob("*"))}


def write_orbax(root, name, params):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(root / name, args=ocp.args.PyTreeSave({"params": params}))
    (root / name / "commit_success.txt").touch()  # which orbax leaves in buckets
    return root / name / "params.dense.kernel" / "0.0"


def write_safetensors(root, name, params):
    save_file(named(params, "."), root / name, metadata={"format": "np"})
    return root / name


def write_npz(root, name, params):
    with open(root / name, "wb") as content:  # given a name, numpy would append a suffix
        np.savez_compressed(content, **named(params, "/"))
    return root / name


def in_folder(write, name):
    def write_within(root, folder, params):
        (root / folder).mkdir(parents=True)
        return write(root / folder, name, params)

    return write_within


def write_shards(root, name, params):
    """As `save_pretrained` does above a size."""
    (root / name).mkdir(parents=True)
    leaves = named(params, ".")
    names = sorted(leaves)
    shards = {f"model-{k + 1:05}-of-00002.safetensors": names[k::2] for k in range(2)}
    for shard, held in shards.items():
        save_file({leaf: leaves[leaf] for leaf in held}, root / name / shard)
    table = {"metadata": {}, "weight_map": {leaf: shard for shard, held in shards.items() for leaf in held}}
    (root / name / "model.safetensors.index.json").write_text(json.dumps(table))
    return root / name / "model-00001-of-00002.safetensors"


def write_branch(root, name, params):
    """As the client of the Hugging Face hub lays a download: a branch names a commit, whose files link to blobs."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "refs" / name).write_text(commit)
    blob = write_safetensors(root / "blobs", f"blob-of-{commit}", params)
    (root / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    return blob


def write_bare_branch(root, name, params):
    """Known of, and never downloaded."""
    (root / "refs" / name).write_text("0" * 40)


SOURCES = {
    "orbax": SourceCase(from_orbax, write_orbax, "{}", "z_{}", "{}.orbax-checkpoint-tmp-7"),
    "safetensors files": SourceCase(
        from_safetensors, write_safetensors, "step_{:06}.safetensors", "z-{}.safetensors", "step_{}.safetensors.tmp"
    ),
    "safetensors folders": SourceCase(
        from_safetensors, in_folder(write_safetensors, "model.safetensors"), "checkpoint-{}", "z{}", "tmp-checkpoint-{}"
    ),
    "safetensors shards": SourceCase(from_safetensors, write_shards, "checkpoint-{}", "z{}", "tmp-checkpoint-{}"),
    "hugging face cache": SourceCase(from_safetensors, write_branch, "step{}", "z-step{}", "step{}", write_bare_branch),
    "npz files": SourceCase(from_npz, write_npz, "step_{:06}.npz", "z-{}.npz", "step_{}.npz.tmp"),
    "npz folders": SourceCase(from_npz, in_folder(write_npz, "params.npz"), "{}", "step_{}", "{}.tmp"),
}
