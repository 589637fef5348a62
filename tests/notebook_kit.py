"""An IPython without a kernel, for the tests of what a notebook shows."""

from __future__ import annotations

from typing import Any

import IPython
import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import DisplayFormatter

from qviz.notebook_show import PLOTLY

Bundle = dict[str, Any]


class Publisher(DisplayPublisher):
    """Keeps what is published, and replaces an output that is updated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.outputs: list[Bundle] = []
        self.places: dict[str, int] = {}
        self.error: Exception | None = None

    def publish(
        self,
        data: Bundle,
        metadata: Bundle | None = None,
        source: object = None,
        *,
        transient: dict[str, str] | None = None,
        update: bool = False,
        **kwargs: object,
    ) -> None:
        """Keep an output."""
        if self.error is not None:
            raise self.error
        name = (transient or {}).get("display_id", "")
        if update:
            self.outputs[self.places[name]] = data
            return
        if name:
            self.places[name] = len(self.outputs)
        self.outputs.append(data)


class Shell:
    """What qviz asks of an IPython."""

    def __init__(self) -> None:
        self.display_formatter: Any = DisplayFormatter()
        self.display_pub = Publisher()

    def run(self, value: object) -> list[Bundle]:
        """The outputs of a cell that ends in ``value``; the result comes last."""
        before = len(self.display_pub.outputs)
        result, _ = self.display_formatter.format(value)
        return [*self.display_pub.outputs[before:], *([result] if result else [])]

    @property
    def shown(self) -> list[Bundle]:
        """All outputs, without the empty ones."""
        return [data for data in self.display_pub.outputs if any(data.values())]


def figures(outputs: list[Bundle]) -> list[Any]:
    """The plotly figures among outputs."""
    return [data[PLOTLY] for data in outputs if PLOTLY in data]


def install(monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Make a new shell the running one."""
    from qviz import notebook

    shell = Shell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    notebook.enable()
    return shell
