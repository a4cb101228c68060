"""Rows that a transaction knows: named early, asked for together, taken when they are needed.

Where the database is far, the number of waits decides the cost of a transaction. So a batch names every row that it
may need (`wanted`), one question for each kind of row goes out with all of them (`ask`), and no answer is waited for
before a handler needs one (`get`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

K = TypeVar("K", int, str, bytes, tuple[str, str])
V = TypeVar("V")
W = TypeVar("W", contravariant=True)

Found = Callable[[], Iterable[tuple[K, V]]]
"""Waits for the answer of a question, and gives what was found, by key."""


class Remembered(Protocol[K, W]):
    """Values that hold from one transaction to the next. A dict is one."""

    def get(self, key: K, default: Any, /) -> Any: ...

    def pop(self, key: K, default: Any, /) -> Any: ...

    def update(self, values: Mapping[K, W], /) -> None: ...

    def clear(self) -> None: ...


_UNKNOWN: Final = object()


class Known(Generic[K, V]):
    """Maps keys to what the database has for them, as far as one transaction knows it.

    `question` sends one question for a sorted list of keys. `absent` is the value of a key for which nothing is found.
    `memory` has values that earlier transactions left; None means that there are none.
    """

    __slots__ = ("_absent", "_asked", "_coming", "_memory", "_question", "_values", "wanted")

    def __init__(
        self,
        question: Callable[[list[K]], Found[K, V]],
        *,
        absent: V,
        memory: Remembered[K, V] | None = None,
    ) -> None:
        self._question: Callable[[list[K]], Found[K, V]] = question
        self._absent = absent
        self._memory: Remembered[K, V] | None = memory
        self._values: dict[K, V] = {}
        self.wanted: Final[set[K]] = set()
        """Keys for the next `ask`."""
        self._coming: set[K] = set()
        """Keys that were asked for, until the answers are taken."""
        self._asked: list[tuple[list[K], Found[K, V]]] = []

    def __contains__(self, key: K) -> bool:
        """Whether the value is known, so that `get` waits for nothing."""
        return key in self._values or (key not in self._coming and self._recall(key))

    def ask(self, keys: Iterable[K] | None = None) -> None:
        """Ask for these keys and the wanted ones in one question, as far as they are neither known nor asked for."""
        wanted = self.wanted
        if keys is not None:
            wanted.update(keys)
        if not wanted:
            return
        values, coming = self._values, self._coming
        missing = [key for key in wanted if key not in values and key not in coming]
        if self._memory is not None:
            missing = [key for key in missing if not self._recall(key)]
        wanted.clear()
        if missing:
            missing.sort()
            self._asked.append((missing, self._question(missing)))
            coming.update(missing)

    def get(self, key: K) -> V:
        """The value of the key, which is asked for now if it is not known."""
        try:
            return self._values[key]
        except KeyError:
            self.ask((key,))
            if self._asked:
                self.take()
            return self._values[key]

    def values(self) -> Iterable[V]:
        """Every value that is known in this transaction."""
        if self._asked:
            self.take()
        return self._values.values()

    def put(self, key: K, value: V) -> None:
        """Take over a value that was found otherwise, or that the transaction has made."""
        self._values[key] = value
        if self._coming:
            self._coming.discard(key)

    def forget(self, key: K) -> None:
        """Forget the value, because the transaction changes the row. The next `get` asks for it anew."""
        self._values.pop(key, None)
        self._coming.discard(key)
        if self._memory is not None:
            self._memory.pop(key, None)

    def clear(self) -> None:
        """Forget every value."""
        self._values.clear()
        self._coming.clear()
        if self._memory is not None:
            self._memory.clear()

    def remember(self) -> None:
        """Leave what is known to the next transactions. The transaction is committed."""
        if self._memory is not None:
            if self._asked:
                self.take()
            self._memory.update(self._values)

    def take(self) -> None:
        """Wait for the answers of all questions. A key that was put, or forgotten, meanwhile is left as it is."""
        values, coming = self._values, self._coming
        # The newest answer comes first: a key that was forgotten, and asked for again, has an answer from before.
        while self._asked:
            missing, answer = self._asked.pop()
            found = {key: value for key, value in answer() if key in coming}
            absent = dict.fromkeys((key for key in missing if key in coming and key not in found), self._absent)
            values.update(found)
            values.update(absent)
            coming.difference_update(missing)

    def _recall(self, key: K) -> bool:
        """Take the value over from the memory, if it is there."""
        if self._memory is None:
            return False
        found = self._memory.get(key, _UNKNOWN)
        if found is _UNKNOWN:
            return False
        self._values[key] = found
        return True
