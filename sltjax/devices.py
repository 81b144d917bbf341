"""Where lanes run: spread over a mesh of devices with axes "checkpoint" and "chain", and "model" for large models.

Lanes know nothing of one another, so that nothing is communicated along the first two axes; along "model" it is, as the
user's partition of the parameters demands. A mesh may span several processes (`jax.distributed`), each of which runs
the same program on the same values.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from sltjax.types import Params

AXES = ("checkpoint", "chain", "model")

Partition = PyTree[PartitionSpec]
"""How parameters are spread over "model": a PartitionSpec a leaf, or one for a whole subtree."""


Devices = Mapping[str, int] | Mesh | None
"""How many along "checkpoint", "chain" and "model", None for all along the first; or a mesh that has the first two."""


Layout = tuple[NamedSharding, ...] | None
"""How the leaves of a tree lie on the devices; None for the one device."""


def make_mesh(sizes: Devices = None) -> Mesh | None:
    """A mesh of all devices, or the one that is given.

    Args:
        sizes: devices along "checkpoint", "chain" and "model", 1 where absent; None for all along "checkpoint".

    Returns:
        The mesh; None where there is but one device.

    Raises:
        ValueError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    if isinstance(sizes, Mesh):
        return sizes if sizes.size > 1 else None
    count = jax.device_count()
    sizes = {"checkpoint": count} if sizes is None else sizes
    if unknown := sorted(set(sizes) - set(AXES)):
        raise ValueError(f"devices: got the axes {unknown}, expected some of {', '.join(AXES)}")
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    if min(shape) < 1 or math.prod(shape) != count:
        spread = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
        raise ValueError(f"devices: got {spread}, expected positive numbers whose product is {count}, the devices here")
    if count == 1:
        return None
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def one_device(device: jax.Device | None = None) -> Mesh:
    """A mesh of that device alone, or of the first."""
    return _along_chains([device or jax.local_devices()[0]])


def cores(num_chains: int) -> Mesh | None:
    """A mesh of the CPU devices of this process that share the chains evenly; None where there is but one.

    jax makes several of the cores where it is told to, by `jax.config.update("jax_num_cpu_devices", 8)` before it is
    first used, or by JAX_NUM_CPU_DEVICES.
    """
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return None
    devices = jax.local_devices()
    used = math.gcd(num_chains, len(devices))
    return _along_chains(devices[:used]) if used > 1 else None


def _along_chains(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array([devices]), AXES[:2], axis_types=(AxisType.Auto,) * 2)


def mesh_around(params: Params, num_chains: int | None = None) -> tuple[Mesh, Partition | None]:
    """A mesh for lanes on the devices where a training has its parameters, and how these lie on it.

    Axes along which a parameter is split are kept, by their names; chains go along all the others.

    Args:
        params: arrays as the training has them.
        num_chains: None if it is free; else no more devices are taken than share the chains evenly.

    Returns:
        The mesh, with "checkpoint" and "chain" before the axes that are kept; and the partition, None where every
        device has all parameters.
    """
    leaves = [x for x in jax.tree.leaves(params) if isinstance(x, jax.Array)]
    meshes = {x.sharding.mesh for x in leaves if isinstance(x.sharding, NamedSharding) and x.sharding.mesh.size > 1}
    if len(meshes) != 1:
        return one_device(min(leaves[0].devices(), key=lambda device: device.id) if leaves else None), None
    (mesh,) = meshes
    specs = jax.tree.map(lambda x: getattr(getattr(x, "sharding", None), "spec", PartitionSpec()), params)
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    parts = [part for spec in jax.tree.leaves(specs, is_leaf=is_spec) for part in spec if part is not None]
    split = {axis for part in parts for axis in (part if isinstance(part, tuple) else (part,))}
    kept = [axis for axis in mesh.axis_names if axis in split]
    free = [axis for axis in mesh.axis_names if axis not in split]
    devices = mesh.devices.transpose([mesh.axis_names.index(axis) for axis in (*free, *kept)])
    devices = devices.reshape(-1, *(mesh.shape[axis] for axis in kept))
    used = devices[: math.gcd(num_chains, len(devices))] if num_chains else devices
    types = (AxisType.Auto,) * (2 + len(kept))
    return Mesh(used[None], ("checkpoint", "chain", *kept), axis_types=types), specs if kept else None


def place(anchors: Params, mesh: Mesh | None, partition: Partition | None = None) -> Params:
    """A stack of checkpoints [checkpoint, ...] on the devices.

    Raises:
        ValueError: the partition does not fit the parameters.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, anchors)
    return jax.tree.map(_put, anchors, shardings(anchors, mesh, partition))


def shardings(anchors: Params, mesh: Mesh, partition: Partition | None = None) -> PyTree[NamedSharding]:
    """How a stack of checkpoints [checkpoint, ...] lies on the devices.

    Raises:
        ValueError: the partition does not fit the parameters.
    """
    specs = PartitionSpec() if partition is None else partition
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    try:
        whole = jax.tree.map(lambda spec, part: jax.tree.map(lambda _: spec, part), specs, anchors, is_leaf=is_spec)
    except ValueError as error:
        raise ValueError(
            f"the partition is no prefix of the parameters ({error}); give a PartitionSpec for every leaf, "
            "or one for a whole subtree"
        ) from None
    return jax.tree.map(lambda _, spec: NamedSharding(mesh, PartitionSpec("checkpoint", *spec)), anchors, whole)


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The same values on every device; keys included."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> Any:
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = _put(np.asarray(jax.random.key_data(x)), everywhere)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return _put(np.asarray(x), everywhere)

    return jax.tree.map(put, tree)


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Every process gives its own devices their part: nothing is sent."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def spread(tree: Any, mesh: Mesh | None, *axes: str) -> Any:
    """Within a jitted function: arrays whose leading axes are those named, along the mesh; the rest as it comes."""
    if mesh is None:
        return tree

    def constrain(x: jax.Array) -> jax.Array:
        rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - len(axes))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*axes, *rest)))

    return jax.tree.map(constrain, tree)


def in_turn(function: Callable[[Any], Array], lanes: Any, mesh: Mesh | None) -> Array:
    """Within a jitted function: a number for each of the leading axes [chain, draw], one after the other on a device.

    Every device takes the chains that lie on it, so that nothing is sent.
    """
    num_chains, num_draws = jax.tree.leaves(lanes)[0].shape[:2]
    devices = math.gcd(num_chains, mesh.shape["chain"] if mesh else 1)
    parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[2:]), lanes)
    return jax.vmap(lambda part: jax.lax.map(function, part))(parts).reshape(num_chains, num_draws)


def layout_of(tree: Any, mesh: Mesh | None) -> Layout:
    """How the leaves of a tree lie on the mesh, of which a jitted function knows nothing by itself."""
    return None if mesh is None else tuple(x.sharding for x in jax.tree.leaves(tree))


def lay(tree: Any, layout: Layout) -> Any:
    """Within a jitted function: arrays that lie as told."""
    if layout is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.tree.unflatten(jax.tree.structure(tree), layout))


def lay_lanes(tree: Any, anchors: Params, layout: Layout) -> Any:
    """Within a jitted function: what in the states of lanes is shaped like parameters lies on "model" as anchors do.

    What does not come of them, such as noise, would lie whole on every device otherwise.
    """
    if layout is None:
        return tree
    lanes = tuple(NamedSharding(x.mesh, PartitionSpec("checkpoint", "chain", *x.spec[1:])) for x in layout)

    def form(tree: Any, lane_axes: int) -> Any:
        return jax.tree.structure(tree), [np.shape(x)[lane_axes:] for x in jax.tree.leaves(tree)]

    def is_like(part: Any) -> bool:
        return form(part, 2) == form(anchors, 1)

    return jax.tree.map(lambda part: lay(part, lanes) if is_like(part) else part, tree, is_leaf=is_like)


def fetch(tree: Any) -> Any:
    """Arrays as numpy, whole on every process; waits for them."""

    def get(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.device_get(jax.tree.map(get, tree))


def is_first_process() -> bool:
    """Whether this process is the one that writes, of those that work as one."""
    return jax.process_index() == 0


def barrier() -> None:
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sltjax")


def tell(value: Any) -> Any:
    """What the first process has, plain data as JSON holds it, in all of them."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if is_first_process():
        padded[:] = text
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
