"""A loaded state as a dict that reads each value, arrays included, when it is first accessed.

An app that resumes a session needs a few keys first. And one missing mask must not block the other keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from edi_checkpoint.wire.entries import JsonText

if TYPE_CHECKING:
    _Dict = dict[str, object]
else:

    class _Dict(MutableMapping, dict):
        """A dict whose methods call `__getitem__` and `__setitem__`, as those of `MutableMapping` do."""


class LazyState(_Dict):
    """A dict of JSON texts. It replaces a text by its value when the key is first accessed.

    `read` returns the value of a text, given its key. The access raises what `read` raises, and the next access tries
    again. A dict's own methods would bypass `__getitem__`, so `MutableMapping` replaces them. The others return a plain
    dict.
    """

    def __init__(self, texts: Mapping[str, JsonText], read: Callable[[str, JsonText], object]) -> None:
        """Start with all values unread."""
        dict.__init__(self, dict.fromkeys(texts))
        self.unread = dict(texts)
        self._read = read

    def __getitem__(self, key: str) -> object:
        """Return the value of `key`; the first access reads it."""
        if key in self.unread:
            dict.__setitem__(self, key, self._read(key, self.unread[key]))
            del self.unread[key]
        return dict.__getitem__(self, key)

    def __setitem__(self, key: str, value: object) -> None:
        """Set `key`. Its old value is never read."""
        self.unread.pop(key, None)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        """Delete `key`, read or not."""
        dict.__delitem__(self, key)
        self.unread.pop(key, None)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys. Without this method, `dict(state)` and `{**state}` would bypass `__getitem__`."""
        return dict.__iter__(self)

    __contains__, __len__ = dict.__contains__, dict.__len__  # these read no values

    def __reversed__(self) -> Iterator[str]:
        """Iterate over the keys from the last one."""
        return dict.__reversed__(self)

    def popitem(self) -> tuple[str, object]:
        """Delete the last key, as a dict does, and return it with its value."""
        for key in reversed(self):
            return key, self.pop(key)
        raise KeyError("popitem(): the state is empty")

    def copy(self) -> dict[str, object]:
        """Return a plain dict."""
        return dict(self.items())

    def __or__(self, other: Any) -> Any:
        """Return a plain dict of both."""
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        """Return a plain dict of both."""
        return other | self.copy()

    def __ior__(self, other: Any) -> LazyState:  # type: ignore[override]
        """Set the items of `other`."""
        self.update(other)
        return self

    def __ne__(self, other: object) -> bool:
        """Compare by all values, as `==` does."""
        return not self == other

    def __repr__(self) -> str:
        """Show all values, as a dict does."""
        return repr(self.copy())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle as a plain dict."""
        return dict, (self.copy(),)
