# SPDX-License-Identifier: Apache-2.0
"""Views of parameters: arrays that an edit opens and closes, whose error on a refused write says how to change them.

An uncounted change would leave a layer with packed weights that are out of date. So an edit knows every view that it
gave out, and every view of those views, and makes them read-only at its end.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bptt._arrays import Array


class Opening:
    """The views of one buffer, and of parts of it, that are writable until `close`."""

    def __init__(self, buffer: Array) -> None:
        self._buffer, self._closed = buffer, False
        self._views: weakref.WeakValueDictionary[int, ParameterView] = weakref.WeakValueDictionary()

    def view(self, part: Array) -> ParameterView:
        """A part of the buffer."""
        made = part.view(ParameterView)
        made.opening = self
        self.admit(made)
        return made

    def admit(self, view: ParameterView) -> None:
        """Remember a view, to close it with the others."""
        if self._closed:
            self._close(view)
        else:
            self._views[id(view)] = view

    def close(self) -> None:
        """Make all views read-only, existing ones and later ones."""
        self._closed = True
        for view in list(self._views.values()):
            self._close(view)

    def _close(self, view: ParameterView) -> None:
        if np.may_share_memory(view, self._buffer):  # otherwise it is a copy
            view.flags.writeable = False


class ParameterView(np.ndarray[Any, np.dtype[Any]]):
    """An array in the memory of parameters. Results computed with it are plain arrays."""

    opening: Opening | None

    def __array_finalize__(self, source: Any) -> None:
        self.opening = getattr(source, "opening", None)
        if self.opening is not None:
            self.opening.admit(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check_writable()
        super().__setitem__(key, value)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        written = options.get("out", inputs[:1] if method == "at" else ())
        for array in written:
            if isinstance(array, ParameterView):
                array._check_writable()
        if "out" in options:
            options["out"] = tuple(map(_plain, written))
        made = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if "out" not in options:
            return made
        if len(written) == 1:
            return written[0]
        return tuple(new if given is None else given for given, new in zip(written, made, strict=True))

    def _check_writable(self) -> None:
        if not self.flags.writeable:
            how = "expected the change within `with params.edit() as p:`"
            raise ValueError(f"Params: the view is read-only, {how}, or `params[name] = array`")

    def copy(self, order: Any = "C") -> Any:
        """A plain array."""
        return np.array(self, order=order)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _plain(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(_plain(self))


def _plain(value: Any) -> Any:
    """A view as an array of NumPy's own class over the same memory; other objects are returned as they are."""
    return value.view(np.ndarray) if isinstance(value, ParameterView) else value
