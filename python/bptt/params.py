# SPDX-License-Identifier: Apache-2.0
"""Named arrays in one flat buffer: parameters and gradients.

An optimizer step, a checkpoint and an all-reduce are each one call on `flat`. A model's parameters are read-only views,
so that every change counts in `version`, which tells layers when their packed weights are out of date. Nothing is
computed here.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from bptt._arrays import as_floats, brief, check_dtype, check_number, check_shape, check_size, first_of
from bptt._views import Opening, ParameterView

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt._arrays import Array, ArrayIn

ALIGNMENT = 64  # bytes: a cache line, and one AVX-512 register

_T = TypeVar("_T")

_ticks = itertools.count(1)  # next() on it is atomic, also without the GIL


class Layout:
    """Names, shapes and places of arrays in one buffer. `of` makes one object of equal layouts, which compares fast."""

    __slots__ = ("__weakref__", "shapes", "size", "spans")

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        ends = list(itertools.accumulate(map(math.prod, shapes.values()), initial=0))
        self.shapes, self.size = shapes, ends[-1]
        self.spans = dict(zip(shapes, itertools.pairwise(ends), strict=True))

    @classmethod
    def of(cls, shapes: dict[str, tuple[int, ...]]) -> Layout:
        """The layout of these shapes, in their order."""
        return _layouts.setdefault(tuple(shapes.items()), cls(shapes))


_layouts: WeakValueDictionary[tuple[tuple[str, tuple[int, ...]], ...], Layout] = WeakValueDictionary()


class Params(Mapping[str, "Array"]):
    """Mapping from names to array views that are adjacent in one 64-byte-aligned buffer.

        params[name]  =  flat[start : start + size].reshape(shape)

    Args:
        shapes: name -> shape of each array, in their order in the buffer.
        dtype: float32 (default) or float64, of all arrays.
        writable: False (default) for parameters: views are read-only, and changes go through `params[name] = array` or
            `edit`, which count. True for gradients: views and `flat` are writable.

    All elements start as zeros.
    Raises: ValueError for sizes that no machine can hold, MemoryError for sizes that this machine cannot.

    >>> params = Params({"weight": (2, 3), "bias": (2,)})
    >>> params["bias"] = [1, 2]
    >>> params.flat.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    >>> with params.edit() as p:
    ...     p["weight"] += 0.5
    >>> params["weight"][1].tolist()
    [0.5, 0.5, 0.5]
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32, *, writable: bool = False
    ) -> None:
        self._dtype = check_dtype("Params", dtype)
        self._writable, self._joined = writable, False
        self._layout = Layout.of(
            {
                name: tuple(check_size("Params", f"shape of {name}", n, least=0) for n in shape)
                for name, shape in shapes.items()
            }
        )
        self._bind(_allocate(self.size, self._dtype), [next(_ticks)])

    def _bind(self, buffer: Array, clock: list[int], opening: Opening | None = None) -> None:
        """Use `buffer` from now on; `clock`, one element, is shared by all parameters in the same allocation.

        `opening` is that of an edit, which closes the views.
        """
        self._buffer, self._clock, self._opening = buffer, clock, opening
        self._flat: Array
        self._plain: Array
        if opening is not None:
            self._flat = self._plain = opening.view(buffer)
        else:
            self._flat = self._plain = buffer.view()
            if not self._writable:
                self._plain.flags.writeable = False
                self._flat = self._plain.view(ParameterView)
        self._views: dict[str, Array] = {}
        self._windows: dict[str, Params] = {}

    def _twin(
        self, buffer: Array, clock: list[int], *, writable: bool, joined: bool, opening: Opening | None = None
    ) -> Params:
        """Params of the same layout over another buffer, or with another right to write."""
        twin = object.__new__(Params)
        twin._dtype, twin._layout, twin._writable, twin._joined = self._dtype, self._layout, writable, joined
        twin._bind(buffer, clock, opening)
        return twin

    @property
    def flat(self) -> Array:
        """The whole buffer, [n]; read-only for parameters."""
        return self._flat

    @property
    def plain(self) -> Array:
        """`flat` as an array of NumPy's own class, whose slices are faster."""
        return self._plain

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._layout.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of all arrays."""
        return self._dtype

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of the buffer."""
        return dict(self._layout.shapes)

    @property
    def version(self) -> int:
        """A number that differs after each change; no two are equal in one process."""
        return self._clock[0]

    @property
    def writable(self) -> bool:
        """Whether views and `flat` are writable, as they are for gradients."""
        return self._writable

    @property
    def joined(self) -> bool:
        """Whether these parameters are part of a larger buffer."""
        return self._joined

    def __getitem__(self, name: str) -> Array:
        view = self._views.get(name)
        if view is None:
            start, stop = self._span(name)
            view = self._views[name] = self._flat[start:stop].reshape(self._layout.shapes[name])
        return view

    def __setitem__(self, name: str, value: ArrayIn) -> None:
        start, stop = self._span(name)
        array = as_floats("Params", name, value, self._dtype)
        check_shape("Params", name, array, self._layout.shapes[name])
        self._buffer[start:stop] = array.reshape(-1)
        self._touch()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.shapes)

    def __len__(self) -> int:
        return len(self._layout.shapes)

    # Identity: comparing two mappings of arrays element by element has no single truth value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {list(shape)}" for name, shape in self._layout.shapes.items())
        return f"Params({arrays or 'empty'}; {self.size} x {self._dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._layout.shapes, self._dtype, self._writable, self._buffer.copy())

    @contextmanager
    def edit(self) -> Iterator[Params]:
        """Writable views for a `with` block; `version` changes at its start and at its end.

        Yields: a `Params` over the same buffer. Its views, `flat` and views of these are writable until the block ends.
            Objects of another type made from them, such as `np.asarray(view)`, `memoryview(view)` or another library's
            array, stay writable: do not keep them, since a later write through them goes unnoticed.

        >>> params = Params({"bias": (2,)})
        >>> before = params.version
        >>> with params.edit() as p:
        ...     p.flat[:] = 3
        >>> params["bias"].tolist(), params.version > before
        ([3.0, 3.0], True)
        """
        opening = Opening(self._buffer)
        editor = self._twin(self._buffer, self._clock, writable=True, joined=True, opening=opening)
        self._touch()  # an interrupt between a change and the end of the block must not leave old packed weights valid
        try:
            yield editor
        finally:
            opening.close()
            self._touch()

    def update(self, change: Callable[[Array], _T]) -> _T:
        """Let `change` write into the whole buffer [n], which it must not keep; `version` changes before and after.

        Returns: what `change` returns.

        >>> params = Params({"bias": (2,)})
        >>> params.update(lambda flat: flat.fill(3))
        >>> params["bias"].tolist()
        [3.0, 3.0]
        """
        self._touch()  # an interrupt between a change and the end must not leave old packed weights valid
        try:
            return change(self._buffer)
        finally:
            self._touch()

    def __iadd__(self, other: Params) -> Params:
        """Add gradients of the same names, shapes and dtype, such as those of another batch, in place.

        Raises: ValueError for parameters, which are read-only, and for other names or shapes; TypeError for another
            dtype or another type than `Params`.

        >>> grads = Params({"bias": (2,)}, writable=True)
        >>> grads["bias"][:] = [1, 2]
        >>> grads += grads
        >>> grads *= 0.5
        >>> grads["bias"].tolist()
        [1.0, 2.0]
        """
        self._check_writable("+=")
        check_like("Params +=", "the right side", other, self, "as backward returned them")
        self._flat += other._flat
        return self

    def __imul__(self, number: float) -> Params:
        """Multiply all gradients by a finite number, in place.

        Raises: ValueError for parameters, which are read-only, and for infinity and NaN; TypeError for no number.
        """
        self._check_writable("*=")
        self._flat *= check_number("Params *=", "the right side", number, -sys.float_info.max)
        return self

    def _check_writable(self, operation: str) -> None:
        if not self._writable:
            has = "the left side is parameters, which are read-only"
            raise ValueError(f"Params {operation}: {has}, expected gradients; params.edit() gives writable ones")

    def span(self, first: str, last: str) -> tuple[int, int]:
        """Start and stop in `flat` of the arrays from `first` to `last`.

        >>> Params({"weight": (2, 3), "bias": (2,)}).span("bias", "bias")
        (6, 8)
        """
        return self._span(first)[0], self._span(last)[1]

    def like(self, other: Params) -> bool:
        """Whether names, order, shapes and dtype are those of `other`."""
        mine, theirs = self._layout, other._layout
        same = mine is theirs or [*mine.shapes.items()] == [*theirs.shapes.items()]  # two threads may make one twice
        return same and (self._dtype == other._dtype or not mine.shapes)

    def zeros_like(self) -> Params:
        """Gradients for these parameters: the same names and shapes, all zeros, writable.

        >>> Params({"bias": (2,)}).zeros_like()["bias"].flags.writeable
        True
        """
        return self._twin(_allocate(self.size, self._dtype), [next(_ticks)], writable=True, joined=False)

    def empty_like(self) -> Params:
        """The same with whatever values the memory has, for a function that writes all of them.

        >>> Params({"bias": (2,)}).empty_like()["bias"].shape
        (2,)
        """
        return self._twin(_allocate(self.size, self._dtype, np.empty), [next(_ticks)], writable=True, joined=False)

    def takes_gradients_of(self, params: Params) -> bool:
        """Whether these are writable, outside an edit, and of the layout and dtype of `params`: a fast check."""
        same = self._layout is params._layout and self._dtype is params._dtype
        return same and self._writable and self._opening is None

    def window(self, prefix: str) -> Params:
        """The arrays whose names start with `prefix`, named without it, in the same memory.

        Raises: KeyError where the names are not adjacent in the buffer.

        >>> grads = Params({"0.weight": (2,), "1.weight": (3,)}, writable=True)
        >>> grads.window("1.")["weight"][:] = 7
        >>> grads.flat.tolist()
        [0.0, 0.0, 7.0, 7.0, 7.0]
        """
        if prefix not in self._windows:
            shapes = {name: shape for name, shape in self._layout.shapes.items() if name.startswith(prefix)}
            names = [*shapes]
            start, stop = self.span(names[0], names[-1]) if names else (0, 0)
            window = self._twin(
                self._buffer[start:stop], self._clock, writable=self._writable, joined=True, opening=self._opening
            )
            window._layout = Layout.of({name.removeprefix(prefix): shape for name, shape in shapes.items()})
            if window.size != stop - start:
                raise KeyError(f"Params.window: the arrays named {prefix}* are not adjacent")
            self._windows[prefix] = window
        return self._windows[prefix]

    @classmethod
    def join(cls, parts: Mapping[str, Params]) -> Params:
        """Move parameters into one new buffer; each part becomes a window of the whole.

        Args: parts by prefix; the whole's names are `prefix.name`.
        Returns: the whole. All share one `version`. Views taken of a part before are no longer connected to it.
        Raises: TypeError for different dtypes, ValueError for a part that is joined already.

        >>> weight = Params({"weight": (2,)})
        >>> whole = Params.join({"0": weight})
        >>> weight["weight"] = [1, 2]
        >>> whole["0.weight"].tolist()
        [1.0, 2.0]
        """
        dtypes = {part.dtype for part in parts.values() if part.size}
        if len(dtypes) > 1:
            raise TypeError(f"Params.join: parts have dtypes {', '.join(sorted(map(str, dtypes)))}, expected one")
        if any(part.joined for part in parts.values()):
            raise ValueError("Params.join: a part is joined already, expected parts that are not")
        shapes = {f"{prefix}.{name}": shape for prefix, part in parts.items() for name, shape in part.shapes.items()}
        whole = cls(shapes, dtypes.pop() if dtypes else np.float32)
        start = 0
        for part in parts.values():
            window = whole._buffer[start : start + part.size]
            window[:] = part._buffer
            part._bind(window, whole._clock)
            part._joined = True
            start += part.size
        return whole

    def _touch(self) -> None:
        self._clock[0] = next(_ticks)

    def _span(self, name: str) -> tuple[int, int]:
        try:
            return self._layout.spans[name]
        except KeyError:
            expected = f"one of {first_of([*self._layout.shapes], 80)}" if self._layout.shapes else "none"
            raise KeyError(f"Params: there is no {brief(name)}, expected {expected}") from None


def check_like(where: str, name: str, value: object, expected: Params, whence: str) -> None:
    """Raise unless `value` is a `Params` of the same names, shapes and dtype; the error names the first difference."""
    if not isinstance(value, Params):
        raise TypeError(f"{where}: {name} has type {type(value).__name__}, expected Params, {whence}")
    if value.like(expected):
        return
    if value.dtype != expected.dtype:
        raise TypeError(f"{where}: {name} has dtype {value.dtype}, expected {expected.dtype}, {whence}")
    for found, wanted in itertools.zip_longest(value.shapes.items(), expected.shapes.items()):
        if found != wanted:
            has, wants = ("no more arrays" if each is None else f"{each[0]} {each[1]}" for each in (found, wanted))
            raise ValueError(f"{where}: {name} has {has}, expected {wants}, {whence}")


def _allocate(size: int, dtype: np.dtype[Any], make: Callable[[int, Any], Array] = np.zeros) -> Array:
    nbytes = size * dtype.itemsize
    if nbytes > sys.maxsize - ALIGNMENT:
        raise ValueError(f"Params: the arrays have {nbytes} bytes in all, expected at most {sys.maxsize - ALIGNMENT}")
    memory = make(nbytes + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT  # memory.ctypes takes twice as long
    return memory[start : start + nbytes].view(dtype)


def _restore(shapes: dict[str, tuple[int, ...]], dtype: np.dtype[Any], writable: bool, flat: Array) -> Params:
    params = Params(shapes, dtype, writable=writable)
    params._buffer[:] = flat
    return params
