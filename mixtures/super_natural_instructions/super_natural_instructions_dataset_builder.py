r"""Writes task files as TFRecord shards that a pod can read from a bucket.

    tfds build mixtures/super_natural_instructions --data_dir=gs://my-bucket/data \
        --manual_dir=/path/to/natural-instructions

or with the same flags `python -m mixtures.super_natural_instructions`, which needs neither Apache
Beam nor mlcroissant; the `tfds` command imports both whatever it does.

The task files are those under --manual_dir, else under $SUPERNI_DIR. `DATA_DIR`, or
`mixtures.configure(data_dir=...)`, then takes the directory given as --data_dir in place of the
task files, and gives the same examples.

Config `train` holds the train track, `test` the test track. Splits are those of policy `disjoint`
(`mixtures.splits`); a split that would be empty is left out. Rows stay in release order, task
after task, and `position` is a row's place among all instances of its task: a reader can put a task
together again and divide it otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from mixtures import prepared
from mixtures.preprocessors import NEGATIVES, POSITIVES, SCALARS, VECTORS
from mixtures.records import Example, TaskRecord
from mixtures.release import Release, data_dir
from mixtures.splits import TRACKS, split_instances

_SPLITS = ("train", "validation", "test")


class Builder(tfds.core.GeneratorBasedBuilder):
    """One config a track."""

    VERSION = tfds.core.Version(prepared.VERSION)
    RELEASE_NOTES = {prepared.VERSION: "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=track, description=f"The {track} track.") for track in TRACKS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Give --manual_dir, or the environment variable SUPERNI_DIR: a directory with tasks/*.json "
        "and splits/default/{train,test}_tasks.txt, as in allenai/natural-instructions."
    )

    # tfds would find this out with importlib_resources, which it uses but does not install.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {name: text for name in SCALARS}
        features |= {name: tfds.features.Sequence(text) for name in VECTORS}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Super-NaturalInstructions tasks, one row per instance.",
            features=tfds.features.FeaturesDict(features | {"position": np.int64}),
            homepage="https://github.com/allenai/natural-instructions",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        release = Release(_task_files(dl_manager))
        track = self.builder_config.name
        names = release.names(track)
        counts = {name: _count(release.task(name), track) for name in names}
        self.info.metadata["missing"] = list(release.missing(track))
        self.info.metadata["tasks"] = {
            name: {
                "category": release.task(name).category,
                "sha256": _sha256(release.path / "tasks" / f"{name}.json"),
                **counts[name],
            }
            for name in names
        }
        return {
            split: self._generate_examples(release, names, split)
            for split in _SPLITS
            if any(counts[name][split] for name in names)
        }

    def _generate_examples(
        self, release: Release, names: tuple[str, ...], split: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for name in names:
            record = release.task(name)
            positions = {instance.id: place for place, instance in enumerate(record.instances)}
            for instance in getattr(split_instances(record, self.builder_config.name), split):
                yield (
                    key,
                    {
                        "task": record.name,
                        "category": record.category,
                        "id": instance.id,
                        "definition": record.definition,
                        "input": instance.input,
                        "references": list(instance.references),
                        "position": positions[instance.id],
                        **_columns(POSITIVES, record.positive_examples),
                        **_columns(NEGATIVES, record.negative_examples),
                    },
                )
                key += 1


def _task_files(dl_manager: tfds.download.DownloadManager) -> Path:
    """--manual_dir if there is such a directory, else $SUPERNI_DIR."""
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:
        if not os.environ.get("SUPERNI_DIR"):
            raise
        return data_dir()


def _count(record: TaskRecord, track: str) -> dict[str, int]:
    splits = split_instances(record, track)
    return {split: len(getattr(splits, split)) for split in _SPLITS}


def _columns(names: tuple[str, ...], examples: tuple[Example, ...]) -> dict[str, list[str]]:
    fields = ("input", "output", "explanation")
    return {
        name: [getattr(example, field) for example in examples]
        for name, field in zip(names, fields, strict=True)
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
