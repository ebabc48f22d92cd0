"""What storage has of the rows that models of a study write."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from etils import epath

from t5x_ext import files
from t5x_ext.studies import store
from t5x_ext.studies.generated_data import GeneratedData, GeneratedKeys

T = TypeVar("T")


def _once(ask: Callable[[Any, str], T]) -> Callable[[Any, str], T]:
    """Keeps what is found for a name with its `Written`, and so no longer than that is used."""

    @functools.wraps(ask)
    def kept(self: Written, name: str) -> T:
        place = ask.__name__, name
        if place not in self._found:
            self._found[place] = ask(self, name)
        return self._found[place]

    return kept


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """What is there at one moment: each file is asked for once, when it first matters.

    Attributes:
      keys: of the generated data, and how it is stated.
      wanted: rows of each, by name.
      study_dir: where it is kept, and the adapters that write.
    """

    keys: GeneratedKeys
    wanted: Mapping[str, int]
    study_dir: epath.Path
    _found: dict[tuple[str, str], Any] = dataclasses.field(default_factory=dict, repr=False)

    @_once
    def is_made(self, name: str) -> bool:
        """Whether as many rows as are wanted were asked for."""
        directory = store.generated_dir(self.study_dir, self.keys.rows(name))
        return store.rows_asked(directory) >= self.wanted.get(name, 0)

    @_once
    def is_empty(self, name: str) -> bool:
        """Whether no row was kept of it, or for a model that writes it."""
        directory = store.generated_dir(self.study_dir, self.keys.rows(name))
        if self.is_made(name) and store.kept_nothing(directory):
            return True
        arms = (self.keys.arms.get(data.writer) for data in self._needed(name))
        return any(arm and arm.generated and self.is_empty(arm.generated) for arm in arms)

    @_once
    def missing_writer(self, name: str) -> GeneratedData | None:
        """The data whose writer has to be tuned before `name` can be written; None: nothing."""
        if not name or self.is_made(name):
            return None
        tuned = (data for data in self._needed(name) if data.writer in self.keys.arms)
        return next((data for data in tuned if not self._has_adapter(data.name)), None)

    @_once
    def _has_adapter(self, name: str) -> bool:
        return files.is_dir(store.adapter_dir(self.study_dir, self.keys.writer(name)))

    def _needed(self, name: str) -> Iterator[GeneratedData]:
        """The data, and the data whose tasks it answers."""
        data: GeneratedData | None = self.keys.get(name)
        while data is not None:
            yield data
            data = self.keys.get(data.tasks_of) if data.tasks_of else None
