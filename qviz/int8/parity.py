"""Does the integer program compute what was simulated? Op by op, on identical input codes.

Outputs of deep networks cannot be compared with a tolerance: one rounding that falls the other way
grows with depth. So the *simulated* values travel through the program, and beside every ``qviz::``
call the integer kernel of each backend runs on the same inputs. Their outputs may differ by one
step of the output's grid where a sum lies next to a tie, and by no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from qviz.data import Batch
from qviz.errors import DataError, ParityError
from qviz.int8 import twin

#: Share of outputs that may be one step off: sums that lie next to a tie.
MOST_ONE_STEP = 1e-3
#: A float output counts as equal within this part of an int8 step over its range: sums of floats
#: are rounded at every addition, integer sums are not.
EQUAL = 0.02
#: Why not zero; a certificate says so.
REASON = (
    "The simulation sums floats and rounds at every addition, a kernel sums integers and rounds "
    "once, and one engine divides by a scale where another multiplies by its inverse: a sum that "
    "lies next to a tie may fall one step to the other side, nothing may fall further. Every call "
    "gets the simulated codes as input, so that a flipped rounding is counted once and does not "
    "grow with depth."
)
#: Runs one call of the program: ``(node, arguments, keyword arguments)``; the result on the CPU.
Call = Callable[[fx.Node, tuple[Any, ...], Mapping[str, Any]], Tensor]
CPU = "cpu"
CPU_CURE = "Set QVIZ_INT8_BACKEND=exact"


def call_here(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The call as PyTorch dispatches it: on the CPU, for inputs that lie there."""
    made: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return made


@dataclass(frozen=True)
class ParityRow:
    """One integer call against the simulation, over all samples.

    Attributes:
        op: name of the op, or of the tensor that is turned into codes.
        kernel: ``conv``, ``quantize`` ...
        output: ``codes`` or ``float``.
        count: outputs compared.
        exact: equal; for a float output within 2 % of a step.
        one_step: off by one step; for a float output by up to one int8 step over its range.
        more: off by more.
        largest: largest difference in steps.
    """

    op: str
    kernel: str
    output: str
    count: int
    exact: int
    one_step: int
    more: int
    largest: float


@dataclass(frozen=True)
class Parity:
    """All integer calls of a program against the simulation, on one backend.

    Attributes:
        rows: one per call, in execution order.
        allowed: share of outputs that may be one step off.
    """

    rows: tuple[ParityRow, ...]
    allowed: float = MOST_ONE_STEP

    @property
    def count(self) -> int:
        """Outputs compared."""
        return sum(r.count for r in self.rows)

    @property
    def one_step(self) -> int:
        """Outputs that are off by one step."""
        return sum(r.one_step for r in self.rows)

    @property
    def more(self) -> int:
        """Outputs that are off by more than one step."""
        return sum(r.more for r in self.rows)

    @property
    def share(self) -> float:
        """Share of outputs that are off by one step."""
        return self.one_step / max(self.count, 1)

    @property
    def passed(self) -> bool:
        """Nothing off by more than one step, and next to nothing by one."""
        return self.more == 0 and self.share <= self.allowed

    def check(self, kernel: str = "integer kernel", cure: str = CPU_CURE) -> None:
        """Raise what is wrong.

        Args:
            kernel: what the backend calls its kernels.
            cure: what may help.

        Raises:
            ParityError: an op is off by more than one step, or too many outputs by one.
        """
        worst = max(self.rows, key=lambda r: r.largest, default=None)
        if self.more and worst is not None:
            raise ParityError(
                worst.op,
                f"its {kernel} is {worst.largest:.3g} steps off the simulation "
                f"({worst.more} of {worst.count} outputs are off by more than one)",
                f"{cure}, and report the op: its kernel is wrong here",
            )
        if not self.passed:
            raise ParityError(
                "integer execution",
                f"{self.share:.2%} of all outputs of the {kernel}s are one step off the "
                f"simulation, more than {self.allowed:.1%}",
                f"{cure}, and see which ops differ in certificate.json",
            )


class _Tally:
    """Counts of one call."""

    def __init__(self, op: str, kernel: str) -> None:
        self.op, self.kernel, self.output = op, kernel, "codes"
        self.count = self.exact = self.one_step = 0
        self.largest = 0.0

    def add(self, real: Tensor, wanted: Tensor) -> None:
        count = wanted.numel()
        self.count += count
        if real.shape != wanted.shape or real.dtype != wanted.dtype:
            self.largest = float("inf")
            return
        if torch.equal(real, wanted):
            self.output = "float" if wanted.is_floating_point() else "codes"
            self.exact += count
            return
        away = (real.to(torch.float32) - wanted.to(torch.float32)).abs_()
        limit = 0.0
        if wanted.is_floating_point():
            self.output = "float"
            away.div_(wanted.abs().amax().clamp_min(1e-30) / 127)
            limit = EQUAL
        exact, within = int((away <= limit).sum()), int((away <= 1).sum())
        self.exact += exact
        self.one_step += within - exact
        self.largest = max(self.largest, float(away.nan_to_num(float("inf")).max()))

    def row(self) -> ParityRow:
        more = self.count - self.exact - self.one_step
        return ParityRow(
            self.op, self.kernel, self.output, self.count, self.exact, self.one_step, more,
            self.largest,
        )  # fmt: skip


class Comparison:
    """Runs a program in simulated arithmetic and the kernels of all backends beside it.

    Args:
        module: a lowered module or the module of a loaded checkpoint.
        names: node name of each ``qviz::`` call -> name of its op.
        backends: name -> how it runs one call; None is the CPU alone.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        names: Mapping[str, str],
        backends: Mapping[str, Call] | None = None,
    ) -> None:
        self.module = module
        self._backends = {CPU: call_here} if backends is None else dict(backends)
        self._weights: dict[tuple[int, bool], Tensor] = {}
        nodes = [
            n for n in module.graph.nodes if n.op == "call_function" and twin.is_integer_call(n)
        ]
        self._tallies = {
            backend: {n.name: _Tally(names.get(n.name, n.name), twin.kernel_of(n)) for n in nodes}
            for backend in self._backends
        }

    def run(self, batch: Batch) -> list[Any]:
        """Compare all calls on one batch; the simulated outputs, flat."""
        with torch.no_grad():
            made = _Walk(self).run(*flat_inputs(self.module, batch), enable_io_processing=False)
        return list(made)

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """One call in every way; the simulated result."""
        kernel = twin.kernel_of(node)
        a = twin.bound(node.target, args, kwargs)
        weight = a.get("weight")
        if weight is not None:
            key = (id(weight), kernel == "conv_transpose")
            if key not in self._weights:
                self._weights[key] = twin.dequantized_weight(
                    weight, a["weight_scale"], transposed=key[1]
                )
            weight = self._weights[key]
        wanted = twin.simulated(kernel, a, weight)
        for name, backend in self._backends.items():
            self._tallies[name][node.name].add(backend(node, args, kwargs), wanted)
        return wanted

    def result(self, backend: str = CPU) -> Parity:
        """What was found so far about one backend."""
        return Parity(tuple(t.row() for t in self._tallies[backend].values()))


class _Walk(fx.Interpreter):
    """Interprets a program, handing integer calls to a Comparison."""

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison.module)
        self.extra_traceback = False  # it would rewrite the words of our own errors
        self._comparison = comparison

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - any value
        if n.op == "call_function" and twin.is_integer_call(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self._comparison.call(n, tuple(args), kwargs)
        return super().run_node(n)


def parity(module: fx.GraphModule, names: Mapping[str, str], batches: Iterable[Batch]) -> Parity:
    """Compare every integer call of a program with the simulation.

    Args:
        module: a lowered module (``Lowered.module``).
        names: node name of each call -> name of its op (``Lowered.calls``).
        batches: the data.
    """
    comparison = Comparison(module, names)
    for batch in batches:
        comparison.run(batch)
    return comparison.result()


def flat_inputs(module: fx.GraphModule, batch: Batch) -> list[Tensor]:
    """A batch's tensors in the order of the program's inputs; what it does not take is left out.

    Raises:
        DataError: an input is missing.
    """
    spec = module.graph._codegen.pytree_info.in_spec  # type: ignore[attr-defined]
    positional, named = spec.children()
    keys: list[int | str] = [*range(positional.num_leaves), *(named.context or ())]
    values: list[Tensor] = []
    for key in keys:
        try:
            values.append(batch.args[key] if isinstance(key, int) else batch.kwargs[key])
        except (IndexError, KeyError):
            raise DataError(
                f"input {key}",
                "the model needs it, the data does not have it",
                "Let the data yield the inputs in order, or as a dict of argument names",
            ) from None
    return values
