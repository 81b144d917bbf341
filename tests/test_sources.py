"""What holds of every source that reads a disk, whatever its format. `Trust n` is the line of the list of faults."""

import os
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from sources import SOURCES, STEPS, listing, make_params, write_branch

from sltjax.checkpoints import CheckpointError, MismatchError, Source, digest, from_safetensors, read_ahead

HTML = b"<!DOCTYPE html><html><body>404</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
XML = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'


class Exploit:
    """A pickle that gives itself away when it is opened."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return Path.touch, (self.sign,)


@pytest.fixture(params=SOURCES, scope="module")
def case(request):
    return SOURCES[request.param]


@pytest.fixture(scope="module")
def stored(case, tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    return root, case.write_run(root)


@pytest.fixture
def run(stored, tmp_path):
    """A copy of the run that a test may damage, and the file of each step that weights lie in."""
    root, files = stored
    copy = shutil.copytree(root, tmp_path / "run", symlinks=True)
    return copy, {step: copy / file.relative_to(root) for step, file in files.items()}


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, np.shape(b), np.asarray(b).tobytes())


def test_it_is_a_source_of_steps_in_order(case, stored):
    """Trust 10: steps sort as numbers."""
    source = case.open(stored[0])
    assert isinstance(source, Source)
    assert source.name == str(stored[0])
    assert source.steps == STEPS
    assert source.skipped == ()


def test_weights_are_read_bit_for_bit_and_left_alone(case, stored):
    root = stored[0]
    before = listing(root)
    source = case.open(root)
    for step, params in read_ahead(source, STEPS):
        assert_same(params, make_params(step))
    assert digest(case.open(str(root)).load(10)) == digest(source.load(10)) == digest(make_params(10))
    assert listing(root) == before


def test_a_template_gives_the_tree(case, stored):
    like = jax.tree.map(lambda w: jax.ShapeDtypeStruct(np.shape(w), np.float32), make_params())
    like["layers"] = tuple(like["layers"])
    expected = make_params(10)
    expected["layers"] = tuple(expected["layers"])
    assert_same(case.open(stored[0], like=like).load(10), expected)


def test_one_checkpoint_is_one_step(case, stored):
    child = stored[0] / case.name.format(10)
    if case.write is not write_branch:
        assert case.open(child).steps == (10,)
        assert_same(case.open(child).load(10), make_params(10))
    else:  # a branch has no folder by its name, and its commit no step
        commit = (stored[0] / "refs" / child.name).read_text()
        assert case.open(stored[0] / "snapshots" / commit).steps == (0,)


def test_unknown_steps(case, stored):
    with pytest.raises(ValueError, match=r"got step 3, expected one of \(2, 10, 100\)"):
        case.open(stored[0]).load(3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (HTML, "is an HTML page"),
        (LFS, "is a git-LFS pointer"),
        (XML, "is an XML page"),
        (pickle.dumps({"a": 1}), "is a pickle"),
        (None, "step 10 cannot be read"),  # cut short
        ("gone", "step 10 cannot be read"),
    ],
)
def test_a_broken_checkpoint_fails_alone(case, run, capfd, content, reason):
    """Trust 8."""
    root, files = run
    if content is None:
        os.truncate(files[10], files[10].stat().st_size // 2)
    elif content == "gone":
        files[10].unlink()
    else:
        files[10].write_bytes(content)
    source = case.open(root)
    results = dict(read_ahead(source, source.steps))
    if content == "gone" and 10 not in results:  # a file that is gone is a step that never was
        assert set(results) == {2, 100}
    else:
        assert isinstance(results[10], CheckpointError)
        assert str(results[10]).startswith("step 10 cannot be read: ")
        assert reason in str(results[10])
        assert "\n" not in str(results[10])
    assert_same(results[2], make_params(2))
    assert_same(results[100], make_params(100))
    assert capfd.readouterr() == ("", "")


def test_the_first_may_be_the_broken_one(case, run):
    """Trust 8."""
    root, files = run
    files[2].write_bytes(b"")
    source = case.open(root)
    with pytest.raises(CheckpointError, match="step 2 cannot be read"):
        source.load(2)
    assert_same(source.load(10), make_params(10))


def test_a_checkpoint_that_goes_while_a_sweep_runs(case, run):
    """Trust 8: savers that keep the last few delete the others."""
    root, _ = run
    source = case.open(root)
    child = root / case.name.format(10)
    for gone in [child] if child.exists() else [root / "snapshots", root / "blobs"]:
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(CheckpointError, match=r"step 10 cannot be read: .* is gone"):
        source.load(10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(case, tmp_path, bad):
    """Trust 9."""
    params = make_params(2)
    params["dense"]["bias"][1:] = bad
    case.write(tmp_path, case.name.format(2), params)
    with pytest.raises(CheckpointError, match=r"step 2: .*dense/bias \(4 of 5\)"):
        case.open(tmp_path).load(2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["layers"].pop(), r"unexpected layers/2/w \(got shape \(\)\)"),
        (lambda p: p["dense"].update(scale=np.ones(3)), r"missing dense/scale \(expected shape \(3,\)\)"),
        (lambda p: p["dense"].update(kernel=np.ones((5, 70))), r"dense/kernel \(got \(70, 5\), expected \(5, 70\)\)"),
    ],
)
def test_leaves_that_do_not_fit_are_named(case, stored, change, said):
    """Trust 9."""
    like = make_params()
    change(like)
    with pytest.raises(MismatchError, match=said):
        case.open(stored[0], like=like)


def test_a_checkpoint_unlike_the_others_fails_alone(case, tmp_path):
    """Trust 9: never a partial load, of what is missing nor of what is there too much."""
    case.write_run(tmp_path)
    fewer, more = make_params(200), make_params(300)
    del fewer["dense"]["kernel"]
    more["extra"] = np.ones(1, np.float32)
    fewer["other"] = np.ones((70, 5), np.float32)
    case.write(tmp_path, case.name.format(300), more)
    if case.write is not SOURCES["orbax"].write:
        case.write(tmp_path, case.name.format(200), fewer)
    source = case.open(tmp_path)
    with pytest.raises(MismatchError, match=r"step 300: .*unexpected extra"):
        source.load(300)
    if 200 in source.steps:
        with pytest.raises(MismatchError, match=r"step 200: .*missing dense/kernel .*unexpected other"):
            source.load(200)
    assert_same(source.load(100), make_params(100))


def test_unfinished_checkpoints_are_skipped_with_a_notice(case, run):
    """Trust 10."""
    root, _ = run
    name = case.temporary.format(11)
    (case.write_unfinished or case.write)(root, name, make_params(11))
    source = case.open(root)
    assert source.steps == STEPS
    ((skipped, reason),) = [(s.name, s.reason) for s in source.skipped]
    assert skipped == name
    assert "never" in reason


def test_the_same_step_twice(case, run):
    """Trust 10: duplicates are dropped by content, and never chosen among."""
    root, files = run
    twin = case.twin.format(10)
    file = case.write(root, twin, make_params(10))
    source = case.open(root)
    assert source.steps == STEPS
    assert [(s.name, s.reason) for s in source.skipped] == [(twin, f"it is step 10 again, as {case.name.format(10)}")]
    files[10].write_bytes(HTML)
    assert_same(case.open(root).load(10), make_params(10))  # the twin that can be read
    file.write_bytes(HTML)
    with pytest.raises(CheckpointError, match="step 10 cannot be read"):
        case.open(root).load(10)
    case.write(root, case.twin.format(100), make_params(99))
    with pytest.raises(ValueError, match="step 100 more than once, with different parameters"):
        case.open(root)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt", ".joblib"])
def test_pickles_are_named_and_never_opened(case, tmp_path, suffix):
    """Trust 11."""
    sign, root = tmp_path / "opened", tmp_path / "run"
    root.mkdir()
    for step in STEPS:
        (root / f"step_{step}{suffix}").write_bytes(pickle.dumps(Exploit(sign)))
    with pytest.raises(ValueError, match=rf"step_2\{suffix}: it is a pickle.*Convert pickles to safetensors"):
        case.open(root)
    assert not sign.exists()
    with pytest.raises(Exception):  # the bait is live  # noqa: B017, PT011
        pickle.loads(pickle.dumps(Exploit(sign))).nothing  # noqa: B018
    assert sign.exists()


def test_pickles_beside_checkpoints_are_skipped(case, run):
    """Trust 11."""
    root, _ = run
    (root / "optimizer_10.pt").write_bytes(pickle.dumps(Exploit(root / "opened")))
    source = case.open(root)
    assert source.steps == STEPS
    assert not (root / "opened").exists()
    if case.write is not write_branch:  # in a cache, only what a branch names is looked at
        assert [s.name for s in source.skipped] == ["optimizer_10.pt"]


def test_folders_without_checkpoints(case, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere, which does not exist"):
        case.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no finished checkpoint"):
        case.open(tmp_path)
    (tmp_path / "100").mkdir()
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(ValueError, match=r"no finished checkpoint .*100: "):
        case.open(tmp_path)
    if case.write is not SOURCES["orbax"].write:
        other = "npz" if case.open is from_safetensors else "safetensors"
        (tmp_path / f"step_1.{other}").write_bytes(b"x")
        with pytest.raises(ValueError, match=rf"step_1\.{other}: it is no \.(npz|safetensors) file"):
            case.open(tmp_path)
    with pytest.raises(ValueError, match="README"):
        case.open(tmp_path / "README.md")
    with pytest.raises(ValueError, match="begins with gs:// or s3://"):
        case.open("http://example.org/run")
