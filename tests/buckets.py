"""Servers on this machine that stand in for buckets: moto for S3, an emulator for Google's storage."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial

import fsspec
import pytest
from etils.epath import backend

# The emulator leaves out a header that Google's storage sends and tensorstore demands; no object is written twice here.
# And it takes a carriage return that ends a file for a part of the line break which gcsfs puts before the boundary.
EMULATOR = """
from gcp_storage_emulator import server
from gcp_storage_emulator.__main__ import main

write_file, read_raw_data, read_data = server.Response.write_file, server._read_raw_data, server._read_data

def write_file_with_generation(self, *args, **rest):
    self["x-goog-generation"] = "1"
    write_file(self, *args, **rest)

def kept_raw_data(request):
    request.raw_data = read_raw_data(request)
    return request.raw_data

def read_whole_data(request, query):
    data = read_data(request, query)
    if (request.raw_data or b"").endswith(b"\\r\\n--==0==--"):
        data["content"] += b"\\r"
    return data

server.Response.write_file = write_file_with_generation
server._read_raw_data, server._read_data = kept_raw_data, read_whole_data
main()
"""


@contextmanager
def s3():
    """S3: a client of it, and a function that puts an empty object of a name that may end in a slash."""
    with served("-m", "moto.server", "-H", "127.0.0.1", "-p", "{}") as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with _client("s3") as client:
            yield client, lambda name: client.call_s3("put_object", Bucket="bucket", Key=name, Body=b"")


@contextmanager
def gs():
    """Google's, likewise."""
    args = ("start", "--host=127.0.0.1", "--port={}", "--in-memory")
    with served("-c", EMULATOR, *args) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "project")
        with _client("gcs") as client:
            yield client, partial(_put_empty, url)


BUCKETS = {"s3": s3, "gs": gs}


def _put_empty(url, name):
    parts = (("application/json", json.dumps({"name": name})), ("application/octet-stream", ""))
    body = "".join(f"--part\r\nContent-Type: {kind}\r\n\r\n{content}\r\n" for kind, content in parts) + "--part--"
    kind = {"Content-Type": 'multipart/related; boundary="part"'}
    address = f"{url}/upload/storage/v1/b/bucket/o?uploadType=multipart"
    urllib.request.urlopen(urllib.request.Request(address, body.encode(), kind)).close()


@contextmanager
def _client(kind):
    backend.fsspec_backend._get_filesystem.cache_clear()  # of another server, at another address
    client = fsspec.filesystem(kind, skip_instance_cache=True, use_listings_cache=False)
    client.mkdir("bucket")
    yield client
    fsspec.get_filesystem_class(kind).clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()


@contextmanager
def served(option, program, *args):
    """Run a server until the block ends, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, option, program, *(arg.format(port) for arg in args)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _await(url, server, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError as answer:  # it answers, if only that there is nothing here
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"no server at {url}: it ended with {server.poll()}")
