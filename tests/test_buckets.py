"""Every source reads buckets, over HTTP from servers on this machine that stand in for S3 and Google's storage."""

import fsspec
import numpy as np
import orbax.checkpoint as ocp
import pytest
from buckets import BUCKETS
from etils.epath import backend
from sources import SOURCES, make_params, write_branch, write_safetensors

from sltjax.checkpoints import CheckpointError, digest, from_npz, from_orbax, from_safetensors, read_ahead

STEPS = (2, 10, 100)


@pytest.fixture(params=BUCKETS, scope="module")
def bucket(request):
    """A bucket, and a client of it that shares nothing with the library's."""
    with BUCKETS[request.param]() as (client, put_empty):
        yield f"{request.param}://bucket", client, put_empty


@pytest.fixture(params=SOURCES, scope="module")
def run(request, bucket, tmp_path_factory):
    """A run in a bucket, of steps 2, 10 and 100, with an unfinished one and one that is an HTML page."""
    address, client, put_empty = bucket
    case, root = SOURCES[request.param], tmp_path_factory.mktemp("run")
    files = case.write_run(root, (2, 7, 10, 100))
    files[7].write_text("<!DOCTYPE html><html></html>")
    temporary = case.temporary.format(11)
    (case.write_unfinished or case.write)(root, temporary, make_params(11))
    folder = f"{request.param.replace(' ', '-')}/run"
    path = f"{address}/{folder}"
    put_empty(f"{folder}/")  # by which consoles show a folder
    put_empty(f"{folder}/12/")
    client.put(f"{root}/", path, recursive=True)
    return case, path, temporary, client


def contents(client, path):
    return {
        name: (info["size"], info.get("ETag"), info.get("etag"))
        for name, info in client.find(path, detail=True).items()
    }


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r", b" ", b"\0"])
def test_the_servers_hold_what_they_are_given(bucket, end):
    address, client, _ = bucket
    client.pipe_file(f"{address}/ends", b"content" + end)
    assert client.cat_file(f"{address}/ends") == b"content" + end


def test_a_run_in_a_bucket_is_read_as_on_a_disk(run):
    """Trust 8 and 10, where every look at a file is a request."""
    case, path, temporary, client = run
    before = contents(client, path)
    source = case.open(path)
    assert source.name == path
    assert source.steps == (2, 7, 10, 100)
    assert {s.name for s in source.skipped} == {temporary} | ({"12"} if case.write is not write_branch else set())
    results = dict(read_ahead(source, source.steps))
    assert isinstance(results[7], CheckpointError)
    assert "step 7 cannot be read: " in str(results[7])
    assert "\n" not in str(results[7])
    if case is not SOURCES["orbax"]:
        assert "is an HTML page" in str(results[7])
    for step in STEPS:
        assert digest(results[step]) == digest(make_params(step))
    assert contents(client, path) == before


def test_what_is_saved_later_is_seen(bucket, tmp_path):
    address, client, _ = bucket
    path = f"{address}/growing"
    for step in (1, 2):
        np.savez(tmp_path / "file.npz", w=np.full(3, step))
        client.put_file(str(tmp_path / "file.npz"), f"{path}/step_{step}.npz")
        source = from_npz(path)
        assert source.steps == tuple(range(1, step + 1))
        assert source.load(step)["w"].tolist() == [step] * 3


def test_orbax_databases(bucket, tmp_path):
    """The layout that orbax writes by default: all arrays of a checkpoint in one database."""
    address, client, _ = bucket
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in STEPS:
            manager.save(step, args=ocp.args.StandardSave({"params": make_params(step), "step": step}))
    assert (tmp_path / "run" / "10" / "default" / "manifest.ocdbt").exists()
    assert (tmp_path / "run" / "10" / "commit_success.txt").exists()
    client.put(f"{tmp_path}/run/", f"{address}/database", recursive=True)
    source = from_orbax(f"{address}/database")
    assert source.steps == STEPS
    assert digest(source.load(10)) == digest(make_params(10))


def test_one_file_in_a_bucket(bucket, tmp_path):
    address, client, _ = bucket
    client.put_file(str(write_safetensors(tmp_path, "file", make_params(5))), f"{address}/alone/step_5.safetensors")
    source = from_safetensors(f"{address}/alone/step_5.safetensors")
    assert source.steps == (5,)
    assert digest(source.load(5)) == digest(make_params(5))


def test_what_is_not_there(bucket):
    address, *_ = bucket
    with pytest.raises(FileNotFoundError, match="does not exist; expected a folder of checkpoints"):
        from_safetensors(f"{address}/nowhere")
    with pytest.raises((FileNotFoundError, PermissionError)):
        from_safetensors(address + "-nowhere/run")


def test_what_a_client_says_is_passed_on(monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def refuse(*args, **rest):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(backend.fsspec_backend, "exists", refuse)
    with pytest.raises(OSError, match="s3://bucket/run, which cannot be looked into: NoCredentialsError: Unable to"):
        from_safetensors("s3://bucket/run")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_a_package_that_is_not_installed_is_named(monkeypatch, scheme, extra):
    def absent(*args, **rest):
        raise ImportError("Install it to access it")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(ValueError, match=rf'what reads {scheme}:// is not installed: pip install "sltjax\[{extra}\]"'):
        from_safetensors(f"{scheme}://bucket/run")
