"""Work counted in units that do not depend on the machine."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["applications", "adjoints", "gram_solves"]
Counts = npt.NDArray[np.int64]


class Meter:
    """Counts the work that each instance of a batch has caused.

    An *application* is one pass of an instance through a map (a whole network counts as one, at the
    price of the sum of its layers), an *adjoint* one pass back to the input, a *gram solve* one
    application of (alpha I + beta W^T W)^-1. `multiply_adds` is the price of all of them.

    Counts that hold for the whole batch are kept as plain integers; only those of a sub-batch touch an
    array, so that metering costs well under a microsecond per pass.

    Args:
        size: number of instances, B.

    Example:
        >>> meter = Meter(3)
        >>> meter.count("applications", 100)
        >>> meter.view([2]).count("adjoints", 50)
        >>> meter.multiply_adds.tolist()
        [100, 100, 150]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._whole = dict.fromkeys(("applications", "adjoints", "gram_solves", "multiply_adds"), 0)
        self._extra = 0
        self._single: dict[str, Counts] = {key: np.zeros(size, dtype=np.int64) for key in self._whole}

    def count(self, kind: Kind, multiply_adds: int, times: int = 1) -> None:
        """Add `times` passes of every instance, at the price of `multiply_adds` each."""
        self._whole[kind] += times
        self._whole["multiply_adds"] += times * multiply_adds

    def count_at(self, indices: Counts, kind: Kind, multiply_adds: int, times: int = 1) -> None:
        """Add `times` passes of the instances at `indices`; an index that repeats counts as often."""
        np.add.at(self._single[kind], indices, times)
        np.add.at(self._single["multiply_adds"], indices, times * multiply_adds)
        self._extra += len(indices) * times * multiply_adds

    def view(self, indices: npt.ArrayLike) -> "MeterView":
        """The meter of a sub-batch: what it counts is charged to the instances at `indices`."""
        return MeterView(self, np.asarray(indices, dtype=np.int64))

    def total(self, key: Kind | Literal["multiply_adds"]) -> Counts:
        """Counts so far, one per instance, (B,)."""
        return self._single[key] + self._whole[key]

    @property
    def multiply_adds(self) -> Counts:
        """Multiply-adds so far, one per instance, (B,)."""
        return self.total("multiply_adds")

    @property
    def mean(self) -> float:
        """Multiply-adds so far per instance, averaged over the batch: cheap, for decisions."""
        return self._whole["multiply_adds"] + self._extra / self.size


class MeterView:
    """A meter seen from a sub-batch (see `Meter.view`)."""

    def __init__(self, meter: Meter, indices: Counts) -> None:
        self._meter = meter
        self._indices = indices
        self.size = len(indices)

    def count(self, kind: Kind, multiply_adds: int, times: int = 1) -> None:
        """Add `times` passes of every instance of the sub-batch."""
        self._meter.count_at(self._indices, kind, multiply_adds, times)

    def view(self, indices: npt.ArrayLike) -> "MeterView":
        """The meter of a sub-batch of this sub-batch."""
        return MeterView(self._meter, self._indices[np.asarray(indices, dtype=np.int64)])

    @property
    def multiply_adds(self) -> Counts:
        """Multiply-adds so far of the sub-batch, one per instance."""
        return self._meter.multiply_adds[self._indices]

    @property
    def mean(self) -> float:
        """Multiply-adds so far per instance, averaged over the sub-batch."""
        return float(self.multiply_adds.mean())
