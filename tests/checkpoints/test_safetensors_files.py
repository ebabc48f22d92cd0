"""The safetensors format: read and written as the safetensors package does, in parts."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from t5x_ext.checkpoints.hugging_face import safetensors_files
from t5x_ext.checkpoints.hugging_face.safetensors_files import TensorInfo
from t5x_ext.errors import ConfigError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def make_arrays() -> dict[str, np.ndarray]:
    """Arrays whose memory does not lie in the order of their elements, among others."""
    values = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    return {
        "plain": values,
        "transposed": values.T,
        "fortran": np.asfortranarray(values),
        "sliced": values[1:5, ::3],
        "bfloat16": values.astype(BFLOAT16).T,
        "float16": values.astype(np.float16),
        "vector": values[0],
        "empty": values[:0],
    }


def write(directory, arrays: dict[str, np.ndarray]) -> epath.Path:
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
    safetensors_files.write_files(epath.Path(directory), infos, arrays.values(), {}, 1 << 40)
    return epath.Path(directory) / safetensors_files.FILE


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


def test_what_is_written_is_read_whatever_the_memory_order(tmp_path) -> None:
    path = write(tmp_path, make_arrays())
    found = {name: t.whole() for name, t in safetensors_files.read_header(path).items()}
    assert_same(found, make_arrays())


def test_the_package_reads_what_we_write(tmp_path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    assert_same(numpy.load_file(write(tmp_path, make_arrays())), make_arrays())


def test_we_read_what_the_package_writes(tmp_path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.ascontiguousarray(array) for name, array in make_arrays().items()}
    numpy.save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    header = safetensors_files.read_header(epath.Path(tmp_path / "theirs"))
    assert_same({name: t.whole() for name, t in header.items()}, arrays)


def test_only_the_rows_of_a_part_are_streamed(tmp_path) -> None:
    rows = np.arange(600, dtype=np.float32).reshape(100, 6)
    path = epath.Path(tmp_path / "first_rows")
    path.write_bytes(b"header.." + rows[:20].tobytes())  # the other rows are not there
    index = (slice(15, 20), slice(2, 4))
    for read in (safetensors_files.read_streamed, safetensors_files.read_mapped):
        length = 100 if read is safetensors_files.read_streamed else 20  # a map needs its file
        part = read(path, 8, (length, 6), rows.dtype, index)
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(part, rows[15:20, 2:4])


def change_header(path: epath.Path, **entry: object) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["plain"] |= entry
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (dict(dtype="I64"), "plain has dtype I64; allowed: F32, BF16, F16"),
        (dict(shape=[6, 11]), "gives plain an impossible range"),
        (dict(data_offsets=[8, 248]), "an impossible range"),
        (dict(data_offsets=[0]), "bad header"),
        (dict(shape="6"), "an impossible range"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(entry, message, tmp_path) -> None:
    path = write(tmp_path, make_arrays())
    change_header(path, **entry)
    with pytest.raises(ConfigError, match=message) as error:
        safetensors_files.read_header(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(keep: int, tmp_path) -> None:
    path = write(tmp_path, make_arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="model.safetensors: is truncated"):
        safetensors_files.read_header(path)


def test_a_page_of_text_in_place_of_the_file_is_refused(tmp_path) -> None:
    path = epath.Path(tmp_path / "model.safetensors")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        safetensors_files.read_header(path)
