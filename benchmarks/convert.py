"""Converts a 1.5 GB checkpoint from Hugging Face's layout to ours, T5X's and back, in one process
each, and holds their peak memory against the limit: 2.5 times the largest tensor plus 1 GB.

    python benchmarks/convert.py [--layers 11] [--no-verify]

Prints seconds and peak memory of each: of all pages, which includes those of mapped files that the
kernel may drop, and of the process's own (anonymous) ones. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from t5x_ext.checkpoints import fingerprint
from t5x_ext.checkpoints.hugging_face import write_hf
from t5x_ext.checkpoints.hugging_face.families import family_of
from t5x_ext.checkpoints.hugging_face.placements import place_all
from t5x_ext.checkpoints.sources import Index, LazyTensor, Source
from t5x_ext.checkpoints.trees import named_leaves
from t5x_ext.models.network import T5Config, Transformer

GB = 1e9
POLL_SECS = 0.01


def make_source(config: T5Config) -> Source:
    """A model of random values that exist only while they are read."""

    def tensor(name: str, shape: tuple[int, ...]) -> LazyTensor:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")

        def read(index: Index) -> np.ndarray:
            values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
            return np.ascontiguousarray(values[index])

        return LazyTensor(shape, np.dtype(np.float32), read)

    specs = named_leaves(Transformer(config).specs)
    tensors = {name: tensor(name, spec.shape) for name, spec in specs.items()}
    return Source("hf", "random", tensors, config, 0, lambda: "", {})


def convert(to: str, source: Path, destination: Path, flags: list[str]) -> dict[str, float]:
    """Runs the command; returns its seconds and its peaks in GB."""
    command = [sys.executable, "-m", "t5x_ext.convert", "--to", to, "--json", *flags]
    clock = time.perf_counter()
    process = subprocess.Popen(
        [*command, source, destination], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    peaks = {"VmHWM": 0.0, "RssAnon": 0.0}
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        for field in peaks:
            if found := re.search(rf"{field}:\s+(\d+) kB", status):
                peaks[field] = max(peaks[field], int(found[1]) * 1024 / GB)
        time.sleep(POLL_SECS)
    secs = time.perf_counter() - clock
    out, err = process.communicate()
    if process.returncode:
        sys.exit(err)
    assert json.loads(out)["verified"] is ("--no-verify" not in flags)
    return {"seconds": secs, **peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--layers", type=int, default=11, help="of each stack")
    parser.add_argument("--no-verify", action="store_true", help="do not compare the results")
    args = parser.parse_args()
    config = T5Config(
        vocab_size=32128,
        emb_dim=1024,
        num_heads=16,
        num_encoder_layers=args.layers,
        num_decoder_layers=args.layers,
        head_dim=64,
        mlp_dim=2816,
        mlp_activations=("gelu", "linear"),
    )
    source = make_source(config)
    sizes = {name: 4 * math.prod(tensor.shape) for name, tensor in source.tensors.items()}
    stacked = max(sizes.values()) / GB
    family = family_of(config)
    places = place_all(config, family.names(config), family.fields).values()
    in_file = max(4 * math.prod(place.shape) for place in places) / GB
    limit = 2.5 * in_file + 1
    print(
        f"{sum(sizes.values()) / GB:.2f} GB; largest tensor: {in_file:.3f} GB in the file, "
        f"{stacked:.3f} GB with its layers stacked; limit {limit:.2f} GB"
    )
    flags = ["--no-verify"] if args.no_verify else []
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_hf(source, str(root / "hf"))
        steps = [
            ("t5x_ext", "hf", "ours", []),
            ("t5x", "ours", "checkpoint_0", []),
            ("t5x", "ours", "checkpoint_1", ["--scan_layers"]),
            ("t5x_ext", "checkpoint_1", "ours_again", []),
            ("hf", "checkpoint_0", "hf_again", []),
        ]
        print(f"{'':38}{'seconds':>9}{'peak GB':>9}{'own GB':>9}")
        for to, origin, result, more in steps:
            row = convert(to, root / origin, root / result, flags + more)
            name = f"{origin} -> {result} {' '.join(more)}"
            print(f"{name:<38}{row['seconds']:9.1f}{row['VmHWM']:9.2f}{row['RssAnon']:9.2f}")
            worst = max(worst, row["VmHWM"])
        same = fingerprint(str(root / "ours")) == fingerprint(str(root / "ours_again"))
    verdict = "the same" if same else "DIFFERENT"
    print(
        f"worst peak {worst:.2f} GB, limit {limit:.2f} GB; values after the round trip: {verdict}"
    )
    sys.exit(0 if worst <= limit and same else 1)


if __name__ == "__main__":
    main()
