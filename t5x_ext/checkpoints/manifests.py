"""The list of a checkpoint's files, with which missing, cut and changed ones are noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from etils import epath

from t5x_ext.checkpoints.damage import Damage, decoding
from t5x_ext.files import refuse_endless

MANIFEST = "manifest.json"

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax's suffix until the rename that ends a save
_DATA = "d"  # OCDBT's directories of data


def files_in(directory: epath.Path) -> Iterator[epath.Path]:
    """All files below a directory (an `epath` on a bucket has no recursive glob)."""
    for path in directory.iterdir():
        if path.is_dir():
            yield from files_in(path)
        else:
            yield path


def write_manifest(final: epath.Path, checksums: bool = True) -> None:
    """Lists a checkpoint's files in it; the last thing to be written.

    Each is listed with its size, and with its SHA-256 but for the files with the arrays: every
    chunk in those has its own checksum, which is verified whenever it is read.

    Args:
        final: The checkpoint's name once it is complete. On a bucket, which has no rename, it is
            being written there already, elsewhere under a temporary name.
        checksums: Whether the arrays have checksums; without, nothing is hashed.
    """
    directory = final.parent / (final.name + _UNFINISHED)
    if not directory.exists():
        directory = final
    # Orbax's own files outside the items are written after this one.
    items = [path for path in directory.iterdir() if path.is_dir()]
    files = {str(file.relative_to(directory)): file for item in items for file in files_in(item)}
    small = {name: file for name, file in files.items() if file.parent.name != _DATA}
    manifest = {
        "bytes": {name: file.stat().length for name, file in files.items()},
        "sha256": {name: _hash(file) for name, file in small.items()} if checksums else {},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1))


def check_manifest(checkpoint: epath.Path) -> None:
    """Checks that a checkpoint's files are those that were saved; the arrays' by their sizes only.

    A checkpoint without a manifest passes, and one without hashes by its sizes: older ones have
    none.

    Raises:
        Damage: If a file is missing, of another size or changed, or the manifest is damaged or
            lists what does not lie in the checkpoint.
        ConfigError: If it lists a pipe or a device.
    """
    path = checkpoint / MANIFEST
    if not path.exists():
        return
    with decoding(MANIFEST):
        manifest = json.loads(path.read_text())
        for name, size in manifest["bytes"].items():
            file = _listed(checkpoint, name)
            found = f"{file.stat().length} bytes" if file.exists() else "missing"
            if found != f"{size} bytes":
                raise Damage(f"{name}: {found}, saved with {size} bytes")
        for name, digest in manifest.get("sha256", {}).items():
            file = _listed(checkpoint, name)
            refuse_endless(file)
            if _hash(file) != digest:
                raise Damage(f"{name}: its content has changed since it was saved")


def _listed(checkpoint: epath.Path, name: str) -> epath.Path:
    """A file by its name in a manifest, which whoever made the checkpoint has written."""
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise Damage(f"{MANIFEST}: lists {name!r}, which is not in the checkpoint")
    return checkpoint / name


def has_checksums(checkpoint: epath.Path) -> bool:
    """Whether a checkpoint's content is verified when it is read: see `SaveCheckpointConfig`."""
    path = checkpoint / MANIFEST
    return path.exists() and bool(json.loads(path.read_text()).get("sha256"))


def hash_manifest(checkpoint: epath.Path) -> str:
    """Names one save of one checkpoint, and copies of it.

    With checksums, everything that is read is verified to be what was saved then. OCDBT gives every
    file it writes a random name, so that no second save has the same manifest.
    """
    return _hash(checkpoint / MANIFEST)


def _hash(file: epath.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
