"""Chips that a plan can be made for, and the names of machines made of them."""

from __future__ import annotations

import dataclasses
import math
import re

from t5x_ext.errors import ConfigError, nearest

GIB = 2**30

# JAX makes a virtual device, with its own memory and thread, for every GPU of a plan.
MAX_GPUS = 1024
MAX_CHIPS = 8960  # a pod of v5p, the largest

# Where `Device.price_per_hour` comes from.
PRICE_SOURCE = (
    "approximate US on-demand prices of mid 2025 (TPUs at Google Cloud, GPUs at AWS "
    "EC2), not checked against current lists; give yours with --price_per_chip_hour"
)


@dataclasses.dataclass(frozen=True)
class Device:
    """One chip.

    Attributes:
      name: as users write it.
      memory_bytes: what a program may use: on a TPU, what its compiler allows; on a GPU, what the
        driver leaves.
      flops_per_sec: dense bfloat16 peak, vendor's figure.
      hbm_bytes_per_sec: vendor's figure.
      link_bytes_per_sec: what a chip sends to the others of its slice or node in a collective: on
        a TPU, both directions of one axis of the torus; on a GPU, NVLink in one direction.
      price_per_hour: US dollars, see `PRICE_SOURCE`.
      torus_axes: 2 or 3 for a TPU, 0 for a GPU.
      chip_config: libtpu's name of the way the chip's cores are used; megacore is one device a
        chip, as JAX has it on such a machine.
    """

    name: str
    memory_bytes: int
    flops_per_sec: float
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float
    price_per_hour: float
    torus_axes: int = 0
    chip_config: str = "default"


# TPU: cloud.google.com/tpu/docs (system architecture); memory as libtpu 0.0.51 reports it when a
# program does not fit. GPU: NVIDIA's data sheets (SXM, dense); memory as the driver reports it,
# less half a GiB for the CUDA context.
DEVICES = {
    device.name: device
    for device in (
        Device("v4", int(30.75 * GIB), 275e12, 1228e9, 90e9, 3.22, 3, "megacore"),
        Device("v5e", int(15.75 * GIB), 197e12, 819e9, 90e9, 1.20, 2),
        Device("v5p", int(95.73 * GIB), 459e12, 2765e9, 180e9, 4.20, 3, "megacore"),
        Device("v6e", int(31.24 * GIB), 918e12, 1640e9, 180e9, 2.70, 2),
        Device("A100-40GB", int(39.0 * GIB), 312e12, 1555e9, 300e9, 2.74),
        Device("A100-80GB", int(79.0 * GIB), 312e12, 2039e9, 300e9, 3.43),
        Device("H100", int(79.1 * GIB), 989e12, 3350e9, 450e9, 6.88),
        Device("H200", int(139.9 * GIB), 989e12, 4800e9, 450e9, 7.91),
    )
}

# The slice whose compiler stands in for that many GPUs: v5p has the most memory.
_STAND_INS = {1: "1x1x1", 2: "2x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}

# Slices that Google Cloud offers, up to 256 chips of two axes and 128 of three.
_SLICES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips that run one program.

    Attributes:
      device: the kind of chip.
      count: how many.
      topology: libtpu's name of a TPU slice, such as 'v5e:4x4'; None for GPUs.
    """

    device: Device
    count: int
    topology: str | None = None

    @property
    def name(self) -> str:
        """'v5e:4x4' or '8xH200'."""
        return self.topology or f"{self.count}x{self.device.name}"

    @property
    def stand_in(self) -> Machine | None:
        """The TPU slice whose compiler answers for GPUs; None if no slice has their number."""
        shape = _STAND_INS.get(self.count)
        return Machine(DEVICES["v5p"], self.count, f"v5p:{shape}") if shape else None

    def larger(self) -> Machine | None:
        """The next larger machine of this kind that is offered, if any."""
        if self.topology is None:
            return dataclasses.replace(self, count=2 * self.count)
        for shape in _SLICES[self.device.torus_axes]:
            if _num_chips(shape) > self.count:
                return parse_topology(f"{self.device.name}:{shape}")
        return None


def parse_topology(name: str) -> Machine:
    """'v5e:4x4' -> 16 chips of v5e.

    Raises:
      ConfigError: there is no such chip or slice.
    """
    kind, _, shape = name.partition(":")
    tpus = {device.name: device for device in DEVICES.values() if device.torus_axes}
    if kind not in tpus:
        raise ConfigError(
            f"--topology: {name!r}; allowed: {', '.join(_examples(tpus))}{_meant(name)}"
        )
    device = tpus[kind]
    slices = _SLICES[device.torus_axes]
    is_shape = (
        re.fullmatch(r"[0-9]{1,4}(x[0-9]{1,4})+", shape)
        and shape.count("x") + 1 == device.torus_axes
        and 1 <= _num_chips(shape) <= MAX_CHIPS
    )
    # Of three axes there are more than those listed; libtpu knows them.
    if not is_shape or (device.torus_axes == 2 and shape not in slices):
        raise ConfigError(f"--topology: {name!r}; allowed: {kind}: with one of {', '.join(slices)}")
    return Machine(device, _num_chips(shape), name)


def parse_devices(text: str) -> Machine:
    """'8xH200' -> eight GPUs of one node.

    Raises:
      ConfigError: there is no such chip, or the number is missing.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([\w-]+)", text)
    gpus = [device.name for device in DEVICES.values() if not device.torus_axes]
    if not match or not 1 <= int(match.group(1)) <= MAX_GPUS:
        raise ConfigError(
            f"--devices: {text!r}; allowed: a number up to {MAX_GPUS:,}, x and one of "
            f"{', '.join(gpus)}"
        )
    count, kind = int(match.group(1)), match.group(2)
    if kind not in gpus:
        hint = "; a TPU goes with --topology" if kind in DEVICES else nearest(kind, gpus)
        raise ConfigError(f"--devices: unknown chip {kind!r}{hint}")
    return Machine(DEVICES[kind], count)


def _meant(name: str) -> str:
    """A hint where `name` is Google Cloud's name of an accelerator type, such as v5litepod-16."""
    kind, _, number = name.partition("-")
    device = DEVICES.get("v5e" if kind == "v5litepod" else kind)
    if device is None or not device.torus_axes or not re.fullmatch("[0-9]{1,5}", number):
        return ""
    chips = int(number) // (2 if device.torus_axes == 3 else 1)  # of v4 and v5p they count cores
    shapes = [shape for shape in _SLICES[device.torus_axes] if _num_chips(shape) == chips]
    return f"; did you mean '{device.name}:{shapes[0]}'?" if shapes else ""


def _num_chips(shape: str) -> int:
    return math.prod(int(side) for side in shape.split("x"))


def _examples(tpus: dict[str, Device]) -> list[str]:
    return [
        f"{name}:{_SLICES[tpu.torus_axes][3 if tpu.torus_axes == 2 else 2]}"
        for name, tpu in tpus.items()
    ]
