"""Quantises kernels on the host, bit for bit as bitsandbytes does; see `nf4`."""

from __future__ import annotations

import numpy as np

from t5x_ext.models.nf4 import BLOCK, CODES, GROUP, NF4, absmax_table

_SLAB = 1 << 15  # numbers compared at a time: they stay in the processor's cache


def quantize(kernel: np.ndarray) -> NF4:
    """Quantises a kernel.

    Args:
        kernel: [..., in, out], any floating dtype; each matrix is quantised alone, in float32.

    Returns:
        Its codes, as NumPy arrays.

    Raises:
        ValueError: A number is infinite or none.
    """
    if kernel.ndim == 2:
        return _quantize_matrix(kernel)
    parts = [quantize(part) for part in kernel]
    names = ("codes", "absmax_codes", "absmax_scales", "absmax_offset")
    arrays = {name: np.stack([getattr(part, name) for part in parts]) for name in names}
    return NF4(**arrays, matrix=parts[0].matrix)


def _quantize_matrix(kernel: np.ndarray) -> NF4:
    num_in, num_out = kernel.shape
    values = np.ascontiguousarray(kernel.T, np.float32).ravel()
    blocks = _blocks(values, BLOCK)
    absmax = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    if not np.isfinite(absmax).all():
        raise ValueError("holds an infinite value or NaN")
    offset = _mean(absmax)
    absmax_codes, scales = _quantize_absmax(absmax - offset)
    codes = _nearest_codes(blocks, absmax)[: values.size]
    if codes.size % 2:
        codes = np.append(codes, np.uint8(7))  # the code of zero
    packed = codes[::2] << 4 | codes[1::2]
    by_row = num_in % BLOCK == 0
    return NF4(
        codes=packed.reshape(num_out, -1) if by_row else packed,
        absmax_codes=absmax_codes.reshape(num_out, -1) if by_row else absmax_codes,
        absmax_scales=scales,
        absmax_offset=np.asarray(offset),
        matrix=(num_in, num_out),
    )


def _nearest_codes(blocks: np.ndarray, absmax: np.ndarray) -> np.ndarray:
    """Codes of [blocks, 64] numbers, uint8 and flat."""
    middles = (CODES[1:] + CODES[:-1]) / np.float32(2)
    inverse = np.divide(np.float32(1), absmax, out=np.zeros_like(absmax), where=absmax > 0)
    codes = np.empty(blocks.size, np.uint8)
    # Counting the middles below a number takes 3 ns; searching for it takes 50.
    for first in range(0, len(blocks), _SLAB // BLOCK):
        some = slice(first, first + _SLAB // BLOCK)
        ratios = (blocks[some] * inverse[some, None]).ravel()
        out = codes[first * BLOCK : first * BLOCK + ratios.size]
        out[:] = ratios > middles[0]
        for middle in middles[1:]:
            out += ratios > middle
    return codes


def _quantize_absmax(absmax: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes less their mean -> uint8 codes, and the scale of each group."""
    groups = _blocks(absmax, GROUP)
    scales = np.abs(groups).max(axis=1)
    # bitsandbytes gives code 0 to all of a group of zeros, whose value times 0 is 0.
    ratios = np.divide(
        groups, scales[:, None], out=np.full_like(groups, -2), where=scales[:, None] > 0
    )
    table = absmax_table()
    middles = (table[1:] + table[:-1]) / np.float32(2)
    codes = np.searchsorted(middles, ratios.ravel()[: absmax.size]).astype(np.uint8)
    return codes, scales


def _blocks(values: np.ndarray, length: int) -> np.ndarray:
    """[blocks, length], the last one filled with zeros; a copy only where it has to be filled."""
    missing = -values.size % length
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, length)


def _mean(values: np.ndarray) -> np.float32:
    """torch's mean of float32 numbers, to the bit: the order in which it adds rounds the result.

    It is that of one thread with eight lanes, whose vectors go to four sums in turn. Each hands
    what 16 vectors (or more, for more than 2**24 numbers) added to on to a higher level, of four.
    """
    lanes = 8 if len(values) >= 8 else 1
    width = 4 * lanes
    whole, vectors = len(values) // width, len(values) // lanes
    rows = values[: whole * width].reshape(whole, 4, lanes)
    power = max(4, int(np.ceil(np.log2(max(whole, 1)))) // 4)
    levels = np.zeros((4, 4, lanes), np.float32)
    done = 0
    while done + (1 << power) <= whole:
        levels[0] += np.add.reduce(rows[done : done + (1 << power)], axis=0)
        done += 1 << power
        for level in range(1, 4):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if done & (((1 << power) - 1) << (level * power)):
                break
    for row in rows[done:]:
        levels[0] += row
    sums = ((levels[0] + levels[1]) + levels[2]) + levels[3]
    for vector in values[whole * width : vectors * lanes].reshape(-1, lanes):
        sums[0] += vector
    by_lane = ((sums[0] + sums[1]) + sums[2]) + sums[3]
    total = np.float32(0)
    for value in (*values[vectors * lanes :], *by_lane):
        total += value
    return total / np.float32(len(values))
