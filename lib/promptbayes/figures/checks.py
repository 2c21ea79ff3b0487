"""What a figure asks of its arrays: shape, finite numbers, and errors that name the argument."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def array(name: str, value: Any, axes: str, *, pad: bool = False, gaps: bool = False) -> Array:
    """Return `value` as floats with these axes ("seed time", "tau=11"); `pad` adds the first."""
    expected = f"[{', '.join(axes.split())}]"
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers of shape {expected}, {error}.") from error
    sizes = [axis.partition("=")[2] for axis in axes.split()]
    if pad and array.ndim == len(sizes) - 1:
        array = array[None]
    if array.ndim != len(sizes) or not all(
        length == int(size) if size else length > 0
        for length, size in zip(array.shape, sizes, strict=True)
    ):
        raise ValueError(f"`{name}` must have shape {expected}, got {np.shape(value)}.")
    if not gaps and not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite, got {(~np.isfinite(array)).sum()} that are not."
        )
    return array


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return `value` if it maps at least one label to something."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"`{name}` must map at least one label to its arrays, got {value!r:.60}.")
    return value


def arrays(name: str, value: Any, axes: str, **options: bool) -> dict[str, Array]:
    """Return a mapping from labels to arrays, each checked by `array`."""
    items = mapping(name, value).items()
    return {label: array(f"{name}[{label!r}]", one, axes, **options) for label, one in items}
