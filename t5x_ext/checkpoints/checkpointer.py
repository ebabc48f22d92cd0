"""A run's own checkpoints: saved while it trains, found again when it is restarted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from t5x_ext import files, multihost
from t5x_ext.checkpoints import orbax_trees, trees
from t5x_ext.checkpoints.best import Best
from t5x_ext.checkpoints.damage import Damage, reading, reason
from t5x_ext.checkpoints.directories import (
    DATA,
    META,
    STATE,
    checkpoint_dir,
    in_agreement,
    read_newest,
    refuse_pipes,
    saved_steps,
)
from t5x_ext.checkpoints.manifests import check_manifest, write_manifest
from t5x_ext.checkpoints.own_layout import add_to_meta, read_json, read_meta
from t5x_ext.errors import ConfigError
from t5x_ext.locks import DirectoryLock

PyTree = Any
_Check = Callable[[dict[str, Any]], None]


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: PyTree
    data_state: dict[str, Any]
    meta: dict[str, Any]


class Checkpointer:
    """Saves and restores the training state under MODEL_DIR/checkpoint_<step>/.

    State, data position and meta become visible together, by one rename at the end: what is
    listed is complete. Saving goes on in the background while training continues; the arrays
    are copied first, so a donated state is safe. Holds the directory's lock until `close`.
    """

    def __init__(
        self,
        model_dir: str,
        *,
        keep: int | None = None,
        save_period: int | None = None,
        save_dtype: str | None = None,
        restore_dtype: str | None = None,
        checksums: bool = True,
        best: Best | None = None,
        async_save: bool = True,
    ) -> None:
        """Opens a run's directory for writing, and clears away half-written checkpoints.

        Args:
            model_dir: Created if absent.
            keep: How many of the newest checkpoints to keep; None keeps all. With 1 there is no
                older one to fall back on if the newest is damaged.
            save_period: Steps between saves, for `should_save`; None saves only when forced.
            save_dtype: Dtype to store parameters in ("float32", "bfloat16"); None: as they are.
                A narrower dtype than the run's makes a resumed run differ from an unbroken one.
            restore_dtype: Dtype to restore parameters in; None: that of the wanted tree.
            checksums: Whether to write what verifies every byte that is read again.
            best: What tells the best checkpoint, which is kept besides; None keeps none for it.
            async_save: Whether `save` returns before the files are written.

        Raises:
            ConfigError: If an argument is out of range, or another run uses the directory.
        """
        for field, value in (("keep", keep), ("save_period", save_period)):
            if value is not None and value < 1:
                raise ConfigError(f"{field} = {value}: allowed are None and numbers from 1")
        trees.check_dtype(save_dtype, "SaveCheckpointConfig.dtype")
        trees.check_dtype(restore_dtype, "RestoreCheckpointConfig.dtype")
        self._save_period, self._keep, self._best = save_period, keep, best
        self._async_save = async_save
        self._saving: int | None = None
        self._save_dtype = save_dtype
        self._restore_dtype = restore_dtype
        # Orbax takes absolute paths only.
        self._dir = files.absolute(model_dir, "MODEL_DIR")
        self._lock = DirectoryLock(self._dir) if multihost.is_primary() else None
        self._checksums = checksums
        from t5x_ext.checkpoints import saving  # Orbax takes a second to import

        self._items = saving.items
        self._values = best.values_in(self._dir) if best else {}
        self._manager = saving.open_manager(
            self._dir, self._which_to_keep, checksums, (DATA, META), self._finish
        )

    def latest_step(self) -> int | None:
        """The newest saved step (its files not yet checked), or None in a new directory."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The saved step that is best, or None where none has been judged."""
        return self._best.pick(self._values) if self._best else None

    def is_best(self, step: int, value: float | None) -> bool:
        """Whether a step is better than all that are saved, by its value."""
        if self._best is None or value is None:
            return False
        return self._best.pick({**self._values, step: value}) == step

    def should_save(self, step: int) -> bool:
        """Whether a step's turn has come by `save_period`."""
        return self._save_period is not None and step % self._save_period == 0

    def save(
        self,
        step: int,
        state: PyTree,
        data_state: dict[str, Any],
        meta: dict[str, Any],
        force: bool = False,
    ) -> bool:
        """Saves everything needed to continue after `step`; waits for an unfinished save first.

        Args:
            step: Number of finished steps.
            state: Tree of arrays. With several processes, all global.
            data_state: Position in the training data, as JSON.
            meta: Seed, config text and whatever else describes the run, as JSON; with what `Best`
                describes where the step has been evaluated.
            force: Save although it is not the step's turn (end of the run, preemption).

        Returns:
            Whether a checkpoint was written: False if not due, or if the step is saved already.

        Raises:
            ConfigError: If this or an earlier save failed, see `wait`.
        """
        if not (force or self.should_save(step)) or step in self._manager.all_steps():
            return False
        self.wait()
        self._saving = step
        value = self._best.value_in(meta) if self._best else None
        if value is not None:
            self._values[step] = value
        items = self._items(state, {DATA: data_state, META: meta}, self._save_dtype)
        with self._save_errors():
            if not self._is_in_place():
                raise FileNotFoundError(self._dir)  # Orbax would make it again, wherever that is
            self._manager.save(step, args=items, force=True)
        if not self._async_save:
            self.wait()
        return True

    def add_to_meta(self, step: int, facts: Mapping[str, Any]) -> None:
        """Adds what was found out of a saved step only later, such as what `Best` describes.

        Args:
            step: Its checkpoint has been restored or waited for.
            facts: As `meta` of `save`; they win over that, and over those that were added before.

        Raises:
            ConfigError: If they cannot be written.
        """
        if multihost.is_primary():
            add_to_meta(checkpoint_dir(self._dir, step), facts)
        value = self._best.value_in(facts) if self._best else None
        if value is not None:
            self._values[step] = value

    def restore(
        self,
        wanted: PyTree,
        step: int | None = None,
        check: _Check = lambda meta: None,
    ) -> Restored | None:
        """Reads a checkpoint straight into the wanted placement.

        Args:
            wanted: Tree of the state's structure with `jax.ShapeDtypeStruct` leaves; their
                shardings may span another number of devices than the run that saved it.
            step: Which one; None takes the newest that can be read. Damaged newer ones are
                renamed to `checkpoint_<step>.damaged`, so that the step can be saved again.
            check: Called with the checkpoint's meta before its tensors are looked at; refuses it
                by raising ConfigError.

        Returns:
            State, data position and meta; None if `step` is None and nothing was saved yet.

        Raises:
            ConfigError: If the checkpoint holds other tensors or shapes, is refused, or cannot be
                read.
        """
        self.wait()
        if self._restore_dtype:
            dtype = self._restore_dtype
            wanted = trees.map_params(lambda leaf: trees.wanted_leaf(leaf, dtype), wanted)
        wanted = jax.tree.map(trees.wanted_leaf, wanted)
        if step is not None:
            return self._read_step(step, wanted, check)
        if not multihost.gather(saved_steps(self._dir))[0]:
            return None
        restored, damaged = read_newest(
            self._dir, in_agreement(lambda path: _read(path, wanted, check))
        )
        self._set_aside(damaged)
        return restored

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
            ConfigError: If it could not be written (full disk, lost mount); earlier checkpoints
                are still there.
        """
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the last save and gives the directory free; raises as `wait` does."""
        try:
            self.wait()
            with self._save_errors():
                self._manager.close()
        finally:
            if self._lock:
                self._lock.release()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.close()
        except ConfigError:
            if error is None:  # else it is most likely about the same save
                raise

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        """Says in one line why a save failed, which takes TensorStore a page."""
        try:
            yield
        except (OSError, ValueError) as error:
            what = f"{self._dir}: step {self._saving} cannot be saved"
            if not self._is_in_place():
                raise ConfigError(
                    f"{what} (the directory was unmounted, moved or deleted); its checkpoints are"
                    " where it is now; the same command continues from the last once it is back"
                ) from error
            steps = saved_steps(self._dir)
            kept = checkpoint_dir(self._dir, steps[0]).name if steps else "none"
            raise ConfigError(
                f"{what} ({reason(error)}); the last good checkpoint is {kept}; the same command "
                "continues from it once there is room"
            ) from error

    def _is_in_place(self) -> bool:
        return self._lock is None or self._lock.is_in_place()

    def _finish(self) -> None:
        """Runs in Orbax's thread when all files are written, just before they become visible."""
        if not self._is_in_place():
            raise FileNotFoundError(self._dir)
        if multihost.is_primary():
            assert self._saving is not None  # set before the save began
            write_manifest(checkpoint_dir(self._dir, self._saving), self._checksums)

    def _which_to_keep(self, steps: Sequence[int]) -> list[bool]:
        newest = steps if self._keep is None else steps[-self._keep :]
        values = {step: value for step, value in self._values.items() if step in steps}
        best = self._best.pick(values) if self._best else None
        return [step in newest or step == best for step in steps]

    def _read_step(self, step: int, wanted: PyTree, check: _Check) -> Restored:
        path = checkpoint_dir(self._dir, step)
        if not path.is_dir():
            steps = ", ".join(map(str, saved_steps(self._dir))) or "none"
            raise ConfigError(f"{path}: no such checkpoint; saved steps: {steps}")
        try:
            return _read(path, wanted, check)
        except Damage as damage:
            raise ConfigError(f"{path} cannot be read: {damage}") from damage

    def _set_aside(self, damaged: list[epath.Path]) -> None:
        if damaged and multihost.is_primary():
            for path in damaged:
                aside = path.parent / f"{path.name}.damaged"
                if aside.exists():
                    aside.rmtree()
                path.rename(aside)
        if damaged:
            multihost.gather(None)  # not before they are out of the way
            self._manager.reload()
            self._values = self._best.values_in(self._dir) if self._best else {}


def _read(path: epath.Path, wanted: PyTree, check: _Check) -> Restored:
    """Reads one checkpoint directory whole; see `Checkpointer.restore`."""
    with reading(path):
        refuse_pipes(path, below=True)
        check_manifest(path)
        meta = read_meta(path)
        check(meta)
        state = path / STATE
        tensors = orbax_trees.open_arrays(state, orbax_trees.names_in(state))
        trees.check_tree(path, tensors, wanted)
        return Restored(trees.read_onto_devices(tensors, wanted), read_json(path, DATA), meta)
