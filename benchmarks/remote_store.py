"""Seconds that a store at a URL costs: publishing a checkpoint, and filling a node's empty cache with shards.

Run: ``python -m benchmarks.remote_store``; ``--megabytes`` of each.

An S3 server in a process of its own on loopback stands for the object store: what is measured is this project and
that server, no network. Beside each figure: the same bytes by pyarrow alone, one file after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from statistics import median

import numpy as np

from orchestrator.manifest import SCHEMA_VERSION, Manifest, ShardFile
from orchestrator.remote import opened
from orchestrator.store import Store
from orchestrator.working_copy import store_at

PLACE = "s3://bench/store"
FILES = 8


@contextmanager
def server() -> Iterator[None]:
    """An S3 server with the bucket ``bench``, which the environment then names."""
    run = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    port = "5917"
    process = subprocess.Popen([sys.executable, "-c", run, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/bench", method="PUT"))
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def checkpoint_in(folder: Path, step: int, data: bytes) -> Path:
    """A checkpoint of :data:`FILES` files, as large as ``data`` together."""
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    size = len(data) // FILES
    files = {}
    for number in range(FILES):
        part = data[number * size : (number + 1) * size - 8] + step.to_bytes(8, "big")
        (place / f"{number}.safetensors").write_bytes(part)
        files[f"{number}.safetensors"] = {"bytes": len(part), "sha256": sha256(part).hexdigest()}
    (place / "manifest.json").write_text(json.dumps({"schema": 1, "files": files, "fits": {}}))
    return place


def shards_in(store: Store, data: bytes) -> Path:
    """A folder of :data:`FILES` shards; what is in them nobody looks at."""
    folder = store.root / "shards" / "bench-00000000"
    folder.mkdir(parents=True)
    size, files = len(data) // FILES, []
    for number in range(FILES):
        part = data[number * size : (number + 1) * size]
        (folder / f"{number}.arrow").write_bytes(part)
        files.append(
            ShardFile(file=f"{number}.arrow", sha256=sha256(part).hexdigest(), bytes=size, rows=1, key=str(number))
        )
    (folder / "rejects.jsonl").write_text("")
    nothing = {field: {} for field in ("source", "image", "alphabet", "frames", "counts", "rejects", "flaws", "notes")}
    more = {field: {} for field in ("missing_symbols", "widths", "characters")}
    texts = dict.fromkeys(("image_sha256", "alphabet_sha256", "content", "stamp"), "")
    Manifest(schema=SCHEMA_VERSION, name="bench", squeezed=0, shards=tuple(files), **nothing, **more, **texts).write(
        folder
    )  # type: ignore[arg-type]
    return folder


def published(store: Store, data: bytes, step: int) -> tuple[float, float]:
    """Seconds to publish a checkpoint, and to write the same files by pyarrow alone."""
    folder = store.folder("bench", "stage", "000000000000")
    place = checkpoint_in(folder, step, data)
    began = time.perf_counter()
    store.origin.publish_stage(folder)
    ours = time.perf_counter() - began
    files, root = opened(PLACE)
    began = time.perf_counter()
    for path in place.iterdir():
        with files.open_output_stream(f"{root}/plain/{step}/{path.name}") as target:
            target.write(path.read_bytes())
    return ours, time.perf_counter() - began


def filled(cache: Path, name: str) -> tuple[float, float]:
    """Seconds to fill an empty cache with the shards, hashes compared, and to read them by pyarrow alone."""
    os.environ["PLUMBLINE_CACHE"] = str(cache)
    store = store_at(PLACE)
    began = time.perf_counter()
    store.origin.fetch_shards(store.root / "shards" / name)
    ours = time.perf_counter() - began
    files, root = opened(PLACE)
    began = time.perf_counter()
    for number in range(FILES):
        with files.open_input_file(f"{root}/shards/{name}/{number}.arrow") as source:
            (cache / f"plain-{number}").write_bytes(source.read_at(source.size(), 0))
    return ours, time.perf_counter() - began


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--megabytes", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    asked = options.parse_args()
    data = np.random.default_rng(0).bytes(asked.megabytes * 10**6)
    with tempfile.TemporaryDirectory() as name, server():
        top = Path(name)
        os.environ["PLUMBLINE_CACHE"] = str(top / "first")
        store = store_at(PLACE)
        folder = shards_in(store, data)
        store.origin.publish_shards(folder)
        rows = {"publish a checkpoint": [published(store, data, step) for step in range(asked.rounds)]}
        rows["fill an empty cache"] = [filled(top / f"cache{each}", folder.name) for each in range(asked.rounds)]
        began = time.perf_counter()
        store_at(PLACE).origin.fetch_shards(store_at(PLACE).root / "shards" / folder.name)
        again = time.perf_counter() - began
    print(f"{asked.megabytes} MB in {FILES} files, median of {asked.rounds} rounds, seconds")
    for what, pairs in rows.items():
        ours, plain = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        rate = asked.megabytes / ours
        print(f"  {what:24s} {ours:7.3f}   by pyarrow alone {plain:7.3f}   {rate:6.0f} MB/s")
    print(f"  {'look at a full cache':24s} {again:7.3f}   (every hash compared)")


if __name__ == "__main__":
    main()
