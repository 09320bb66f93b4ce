"""Caches of projections that watch events keep up to date.

Separate from watching, which is asynchronous and fails: a cache is plain Python that a test fills by hand. It holds
projections instead of whole objects, since 1,000 workloads with their pods would be hundreds of MiB otherwise, and an
equal projection notifies nobody, since kubelets touch their nodes every few seconds.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

__all__ = ["Listener", "Store"]

K = TypeVar("K")
T = TypeVar("T")

Listener = Callable[[K, T | None, T | None], None]
"""Called with the key, what was there and what is there now; None stands for nothing."""


class Store(Generic[K, T]):
    """Projections by key.

    `synced` is set by the first full listing: nothing is to be decided before. Listeners are called in the order in
    which they came, after the change; they must be quick and must not raise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.synced = asyncio.Event()
        self._values: dict[K, T] = {}
        self._versions: dict[K, int] = {}
        self._deleted: dict[K, int] = {}
        self._listeners: list[Listener[K, T]] = []

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        return iter(tuple(self._values))

    def get(self, key: K) -> T | None:
        """The projection under a key, None where there is none."""
        return self._values.get(key)

    def values(self) -> tuple[T, ...]:
        """All projections as they are now."""
        return tuple(self._values.values())

    def items(self) -> tuple[tuple[K, T], ...]:
        """All keys with their projections as they are now."""
        return tuple(self._values.items())

    def listen(self, listener: Listener[K, T]) -> None:
        """Be told of changes from now on."""
        self._listeners.append(listener)

    def upsert(self, key: K, value: T, resource_version: str = "") -> bool:
        """Put a projection; False where it is the same, or older than what is known of the key.

        A listing and a watch may run side by side, and the older of the two must not win, nor bring back what was
        deleted meanwhile. Resource versions of one kind may be compared as numbers.
        Source: KEP-5504, comparable resource version, stable in Kubernetes 1.35; held before that without a promise.
        """
        version = _number(resource_version)
        if version and version < max(self._versions.get(key, 0), self._deleted.get(key, 0)):
            return False
        self._deleted.pop(key, None)
        self._versions[key] = version
        old = self._values.get(key)
        if key in self._values and old == value:
            return False
        self._values[key] = value
        self._notify(key, old, value)
        return True

    def delete(self, key: K, resource_version: str = "") -> bool:
        """Drop a key; False where it was not there. A listing that is older does not bring it back."""
        if version := _number(resource_version):
            self._deleted[key] = version
        self._versions.pop(key, None)
        if key not in self._values:
            return False
        old = self._values.pop(key)
        self._notify(key, old, None)
        return True

    def replace_keys(self, seen: Collection[K], resource_version: str = "") -> tuple[K, ...]:
        """Drop what a full listing did not show, and count as synced; the keys that went.

        This is what makes up for deletions that no watch told of. With the listing's resource version, keys that a
        watch brought after it stay.
        """
        listed = _number(resource_version)
        gone = tuple(key for key in self._values if key not in seen and not (listed and self._versions[key] > listed))
        for key in gone:
            self.delete(key)
        if listed:
            self._deleted = {key: version for key, version in self._deleted.items() if version > listed}
        self.synced.set()
        return gone

    def _notify(self, key: K, old: T | None, new: T | None) -> None:
        for listener in tuple(self._listeners):
            listener(key, old, new)


def _number(resource_version: str) -> int:
    """A resource version to compare; 0 where it is absent or no number, which compares with nothing."""
    return int(resource_version) if resource_version.isdecimal() else 0
