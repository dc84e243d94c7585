"""A loaded state as a dict whose values are read when they are looked at: arrays and all.

Whoever resumes a session looks at a few keys first; and one mask that cannot be had must not keep the others away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from edi_checkpoint.wire.entries import JsonText

if TYPE_CHECKING:
    _Dict = dict[str, object]
else:

    class _Dict(MutableMapping, dict):
        """A dict whose methods go by those of the class, as `MutableMapping` has them."""


class LazyState(_Dict):
    """A dict of JSON texts, each of which becomes its value, once, when it is asked for; then it is as any dict.

    `read` gives the value of a text, under its key; what it raises, the access raises, and the next one tries again.
    What a dict does in C, past its own methods, is done here by `MutableMapping`, or hands on a plain dict.
    """

    def __init__(self, texts: Mapping[str, JsonText], read: Callable[[str, JsonText], object]) -> None:
        """Begin with nothing read."""
        dict.__init__(self, dict.fromkeys(texts))
        self.unread = dict(texts)
        self._read = read

    def __getitem__(self, key: str) -> object:
        """Return the value of `key`, read now if it was not."""
        if key in self.unread:
            dict.__setitem__(self, key, self._read(key, self.unread[key]))
            del self.unread[key]
        return dict.__getitem__(self, key)

    def __setitem__(self, key: str, value: object) -> None:
        """Set `key`; what it was is not read any more."""
        self.unread.pop(key, None)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        """Delete `key`, read or not."""
        dict.__delitem__(self, key)
        self.unread.pop(key, None)

    def __contains__(self, key: object) -> bool:
        """Return whether there is `key`, without reading it."""
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys. It is ours, so that `dict(state)` and `{**state}` do not look past us."""
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        """Iterate over the keys from the last one."""
        return dict.__reversed__(self)

    def __len__(self) -> int:
        """Return the number of keys."""
        return dict.__len__(self)

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
        """Set what `other` has."""
        self.update(other)
        return self

    def __ne__(self, other: object) -> bool:
        """Compare by all values, as `==` does."""
        return not self == other

    def __repr__(self) -> str:
        """Show all values, as a dict does."""
        return repr(self.copy())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Be copied and pickled as a plain dict."""
        return dict, (self.copy(),)
