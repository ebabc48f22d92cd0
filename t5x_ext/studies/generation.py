"""Makes the rows that models of the study write for themselves, before they are trained on."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from etils import epath

import mixtures
from t5x_ext import files, memory
from t5x_ext.checkpoints import peft
from t5x_ext.checkpoints.adapters import open_adapter, place, stack
from t5x_ext.checkpoints.fingerprints import fingerprint_base
from t5x_ext.checkpoints.meta import NOT_QUANTIZED, carried_eos_ids
from t5x_ext.checkpoints.params import open_source
from t5x_ext.data.opening import load_examples
from t5x_ext.data.records import Example
from t5x_ext.errors import ConfigError
from t5x_ext.generation import refill, rounds
from t5x_ext.generation.instructions import INSTRUCTIONS
from t5x_ext.generation.journal import read_records
from t5x_ext.generation.overlap import rows_with
from t5x_ext.generation.text_models import Writer, max_tokens, token_counter
from t5x_ext.models import network
from t5x_ext.models.parameters import Params, join, select
from t5x_ext.studies import store
from t5x_ext.studies.cells import Cell
from t5x_ext.studies.generated_data import Domain, GeneratedData, GeneratedKeys, tasks_owner
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.tuning import Tuner, copy_to
from t5x_ext.studies.waiting import Patience, held
from t5x_ext.studies.written import Written
from t5x_ext.terminal import note, show
from t5x_ext.text_model import Model
from t5x_ext.training.state import abstract_params

_ADAPTER = "writer"


@dataclasses.dataclass
class Generation:
    """The generated data of a study.

    Attributes:
      keys: of it, and how it is stated.
      wanted: rows of each, by name.
      initials: the initial models.
      tuner: has the model and the mesh.
      study_dir: where it is kept, and the adapters that write.
      elsewhere: shards that tune adapters, by the adapter's key; see `Runner`.
      wait_minutes: for one of these, at most.
    """

    keys: GeneratedKeys
    wanted: Mapping[str, int]
    initials: InitialModels
    tuner: Tuner
    study_dir: epath.Path
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)
    wait_minutes: float = 0.0

    def waves(self, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
        """The cells in parts: the models of one part write what the next is trained on.

        Rows are written before the part that is trained on them; cells for which none was kept are
        left out. What waits for another shard's adapter comes after everything else.

        Raises:
          TryAgain: such an adapter has not come.
        """
        left = list(cells)
        while True:
            now = self._look()
            left = _with_rows(left, now)
            if not left:
                return
            some = self._next(left, now)
            for name in dict.fromkeys(cell.arm.generated for cell in some if cell.arm.generated):
                self.make(name)
            taken = {cell.key for cell in some}
            left = [cell for cell in left if cell.key not in taken]
            if some := _with_rows(some, self._look()):
                yield some

    def _next(self, left: Sequence[Cell], now: Written) -> list[Cell]:
        """The cells whose rows can be written next; waits where another shard is to tune first."""
        ready = [cell for cell in left if now.missing_writer(cell.arm.generated) is None]
        if ready:
            first = min(map(self.level, ready))
            return [cell for cell in ready if self.level(cell) == first]
        name = min(left, key=self.level).arm.generated
        self._wait_for_writer(name)
        has_rows = not self._look().is_empty(name)
        return [cell for cell in left if has_rows and cell.arm.generated == name]

    def lacks_rows(self, cell: Cell) -> bool:
        """Whether a cell can never run: no row was kept for it, or for a model that writes them."""
        return bool(cell.arm.generated) and self._look().is_empty(cell.arm.generated)

    def _look(self) -> Written:
        return Written(self.keys, self.wanted, self.study_dir)

    def _wait_for_writer(self, name: str) -> None:
        patience = Patience(
            self.wait_minutes,
            "all else of this shard is done: give the same command again once that shard ran",
        )
        while (data := (now := self._look()).missing_writer(name)) and not now.is_empty(name):
            shard = self.elsewhere.get(self.keys.writer(data.name), "another")
            patience.wait(
                f"generated data {name}: its writer, {data.writer}, is tuned by shard {shard}"
            )

    def level(self, cell: Cell) -> int:
        """How many models have to be tuned, one after the other, before this cell's."""
        generated = cell.arm.generated
        return 1 + self.keys.level(generated) if generated else 0

    def must_keep(self, cell: Cell) -> bool:
        """Whether a cell's adapter is kept: it is what the study is for, or writes for others."""
        writers = {data.writer for data in self.keys.by_name.values()}
        return bool(cell.arm.generated) or (bool(cell.arm.data) and cell.arm.name in writers)

    def has(self, cell: Cell) -> bool:
        """Whether the adapter that must be kept is there."""
        return files.is_dir(store.adapter_dir(self.study_dir, cell.tuned_key))

    def keep(self, cell: Cell, adapter: Params) -> None:
        """Writes a tuned adapter as a directory of PEFT's."""
        directory = store.adapter_dir(self.study_dir, cell.tuned_key)
        if files.is_dir(directory):
            return
        module = self.tuner.model.module
        assert module.lora is not None  # or there would be no adapter
        path = self.initials.path_of(cell.arm.initial)
        stored = peft.StoredAdapter(
            module.lora,
            jax.tree.map(np.asarray, adapter),
            path,
            fingerprint_base(open_source(path)) if path else None,
            prompt=cell.arm.prompt,
            base_quantization=module.quantization or NOT_QUANTIZED,
        )
        peft.write(str(directory), self.tuner.model.config, stored)

    def path(self, name: str) -> epath.Path:
        """The rows of generated data, one object per line."""
        return store.generated_dir(self.study_dir, self.keys.rows(name)) / rounds.TRAIN

    def train(self, cell: Cell, lengths: Mapping[str, int]) -> list[Example]:
        """Training examples of a cell: the first rows that were written."""
        path = self.path(cell.arm.generated)
        name = mixtures.resolve(str(path), prompt=cell.arm.prompt)
        return load_examples(name, "train", lengths)[: int(cell.budget.removeprefix("n"))]

    def make(self, name: str) -> None:
        """Has rows written, unless they are; where another process is at it, waits."""
        data, count = self.keys.get(name), self.wanted[name]
        directory = store.generated_dir(self.study_dir, self.keys.rows(name))
        if self._look().is_made(name):
            return
        tasks_dir = store.generated_dir(self.study_dir, self.keys.tasks(name))
        clock = time.monotonic()
        # One process at a time writes; the others find its files.
        with held(self.study_dir / "generated", "generated data"):
            if self._look().is_made(name):
                return
            show(f"generated data {name}: {count} rows, written by {data.writer}")
            counts = self._write(data, count, tasks_dir, directory)
            memory.give_back()  # the next model that writes compiles programs of its own
            made = {
                "name": name,
                "asked": count,
                "answers": {"kept": 0, **counts},
                "secs": round(time.monotonic() - clock, 1),  # of the process that finished it
                "tasks": tasks_dir.name,
                "flagged": _flagged(directory, data),
            }
            store.write_json(directory / store.MADE, made)
        if counts["kept"] < count:
            note(f"generated data {name}: {counts['kept']} rows of {count}: no more tasks came")

    def _write(
        self, data: GeneratedData, count: int, tasks_dir: epath.Path, directory: epath.Path
    ) -> collections.Counter[str]:
        """Writes tasks and answers in turn; what other data has written already is read.

        Returns:
          Counts of the answers.
        """
        asked = tasks_owner(data, self.keys.by_name)
        answering, asking = data.round(count), asked.round(count)
        expert, amateur = self._writers(data)
        writer = expert if asked is data else self._writers(asked)[0]

        def write_tasks(number: int) -> collections.Counter[str]:
            return rounds.write_instructions(asking, writer, tasks_dir, number).counts

        def write_rows() -> collections.Counter[str]:
            tasks = tasks_dir / INSTRUCTIONS
            return rounds.write_responses(answering, expert, amateur, directory, tasks).counts

        return refill(write_tasks, write_rows, count).rows

    def _writers(self, data: GeneratedData) -> tuple[Writer, Writer | None]:
        """The model that writes, and whom it is set against, over one copy of the base."""
        model = self.tuner.model
        identity = self.keys.writer(data.name)
        arm = self.keys.arms.get(data.writer)
        initial = arm.initial if arm else data.writer
        adapter = store.adapter_dir(self.study_dir, identity) if arm else None
        load = functools.cache(lambda: self._load(initial, adapter))
        texts = token_counter(model.output_vocabulary), max_tokens(model.config)
        writer = Writer(identity, *texts, load, _ADAPTER if arm else None)
        if data.contrast is None:
            return writer, None
        if arm is None:
            raise ConfigError(
                f"GeneratedData {data.name}: contrast with writer {data.writer!r}; allowed: with "
                "an arm, which is set against the initial model that it was tuned from"
            )
        return writer, Writer(self.keys.initial_keys[initial], *texts, load)

    def _load(self, initial: str, adapter_dir: epath.Path | None) -> Model:
        """An initial model, with an adapter, as it is called from Python."""
        described, partitioner = self.tuner.model, self.tuner.partitioner
        config = described.config
        params = copy_to(self.initials.params(initial, 0, self.tuner), "device")
        quantization = described.module.quantization
        lora, adapters = None, tuple[str, ...]()
        if adapter_dir is not None:
            lora, stacked = stack([open_adapter(str(adapter_dir), config)], config)
            adapters = (_ADAPTER,)
            with_adapter = network.Transformer(config, lora, 2, quantization)
            wanted = abstract_params(described.replace(module=with_adapter), partitioner)
            params = join(params, place(stacked, select(stacked, wanted)))
        return Model(
            config,
            params,
            described.output_vocabulary,
            partitioner,
            path=initial,
            meta=carried_eos_ids(self.initials.eos_ids(initial)),
            adapters=adapters,
            lora=lora,
            quantization=quantization,
            inputs_bidirectional_attention=described.inputs_bidirectional_attention,
        )


def _with_rows(cells: Sequence[Cell], now: Written) -> list[Cell]:
    """The cells without those that can never run, of which it tells."""
    names = dict.fromkeys(cell.arm.generated for cell in cells if cell.arm.generated)
    empty = [name for name in names if now.is_empty(name)]
    for name in empty:
        of_it = ", ".join(str(cell) for cell in cells if cell.arm.generated == name)
        note(f"generated data {name}: no row to train on was kept; left out: {of_it}")
    return [cell for cell in cells if cell.arm.generated not in empty]


def _flagged(directory: epath.Path, data: GeneratedData) -> list[tuple[str, str]]:
    """Test rows that share words in a row with what was written; reports leave them out too."""
    path = directory / rounds.TRAIN
    rows = read_records(path) if files.is_file(path) else []  # without a task there is none
    texts = (row[field] for row in rows for field in ("input", "output"))
    return sorted(rows_with(texts, Domain(data.domain).evaluation))
