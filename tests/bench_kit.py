"""A clock whose times are known before."""

from __future__ import annotations


class Even:
    """One microsecond a pair."""

    def __init__(self) -> None:
        self._pairs = 0

    def ahead(self, calls: int) -> None:
        pass

    def begin(self) -> None:
        pass

    def end(self) -> None:
        self._pairs += 1

    def read(self) -> list[float]:
        found, self._pairs = [1e-6] * self._pairs, 0
        return found
