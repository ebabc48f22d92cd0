"""TensorBoard event files, written without TensorFlow.

What a run logs are scalars and a text or two, and for those the format is small. The packages that
write it would cost a run's start: TensorFlow its import, tensorboardX two seconds where torch and
google-cloud-storage are installed, both of which it imports. A file is a sequence of records

    length: uint64 | masked CRC32C of length: uint32 | Event protobuf | masked CRC32C of it: uint32

all little endian. Field numbers are those of event.proto, summary.proto, tensor.proto and
types.proto in tensorflow/core.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping

import numpy as np

from t5x_ext.files import GrowingFile, StrPath, path


class EventFile:
    """One run's scalars and texts for TensorBoard."""

    def __init__(self, directory: StrPath, start_step: int = 0) -> None:
        """Creates a new file; see `GrowingFile` for when its events can be seen.

        Args:
            directory: Where TensorBoard is to look, local or in a bucket; files of earlier runs
                may lie there.
            start_step: Steps finished before this run; TensorBoard then leaves out what earlier
                files hold beyond it.
        """
        now = time.time()
        host = socket.gethostname()
        # Several runs may start within one second, in one process or in many.
        name = f"events.out.tfevents.{int(now)}.{time.time_ns()}.{host}.{os.getpid()}"
        self._file = GrowingFile(path(directory) / name)
        self._write(now, 0, _field(3, b"brain.Event:2"))
        if start_step:
            # SessionLog{status: START} makes TensorBoard drop what earlier files hold from the
            # step on: it purges steps >= the event's.
            self._write(now, start_step + 1, _field(7, _tag(1, 0) + _varint(1)))

    def write_scalars(self, now: float, step: int, values: Mapping[str, float]) -> None:
        """Adds one event with a scalar per name; `now` is the wall time in seconds."""
        summary = b"".join(
            _field(1, _field(1, name.encode()) + _tag(2, 5) + _float(value))
            for name, value in values.items()
        )
        self._write(now, step, _field(5, summary))

    def write_texts(self, now: float, step: int, texts: Mapping[str, str]) -> None:
        """Adds one event with a text per name, Markdown; `now` is the wall time in seconds."""
        # SummaryMetadata{plugin_data{plugin_name}}
        plugin = _field(1, _field(1, b"text"))
        summary = b"".join(
            _field(1, _field(1, name.encode()) + _field(8, _tensor(text)) + _field(9, plugin))
            for name, text in texts.items()
        )
        self._write(now, step, _field(5, summary))

    def flush(self) -> None:
        """Writes what a bucket does not have yet."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, now: float, step: int, what: bytes) -> None:
        event = _tag(1, 1) + struct.pack("<d", now) + _tag(2, 0) + _varint(step) + what
        length = struct.pack("<Q", len(event))
        self._file.append(length + _masked_crc(length) + event + _masked_crc(event))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _float(value: float) -> bytes:
    with np.errstate(over="ignore"):  # beyond float32 is infinity, as in a diverging run's norms
        return np.array(value, "<f4").tobytes()


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field: a string or a message."""
    return _tag(number, 2) + _varint(len(payload)) + payload


def _tensor(text: str) -> bytes:
    """TensorProto{dtype: DT_STRING, tensor_shape: a scalar's, string_val: [text]}."""
    return _tag(1, 0) + _varint(7) + _field(2, b"") + _field(8, text.encode())


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli, reflected
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
