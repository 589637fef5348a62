"""Every error qviz raises on purpose: one tree, each with the thing, the reason and the cure.

QvizError                     base of all; ``str()`` is one line for a person
├── InputError                something handed to qviz cannot be used           (exit code 2)
│   ├── ModelError            a model cannot be read or built
│   │   └── UnsupportedModelError   torch.export refuses it, or an op cannot be handled
│   ├── DataError             calibration or evaluation data is empty, misshapen, mislabelled
│   ├── NotFiniteError        NaN or Inf where numbers are needed
│   ├── RangeError            a clip range, bit width or calibrator that makes no grid
│   ├── ShapeError            tensors whose sizes do not fit each other
│   ├── RecipeError           a recipe that names what the model does not have
│   ├── TuneError             a method that cannot be applied to a model, or a fit that fails
│   ├── MetricError           an unknown metric, or one that does not fit the outputs
│   ├── FormatError           a file of another tool's format that cannot be read, or a recipe
│   │                         that a format cannot express
│   ├── CheckpointError       an int8 checkpoint that is damaged or not ours
│   ├── DeviceError           a GPU that is not there, too old, out of memory or lacks its compiler
│   ├── RunFolderError        a run folder of another model or data, or not writable
│   └── MissingExtraError     an optional dependency is not installed
├── ParityError               integer execution differs from the simulation     (exit code 1)
└── Cancelled                 the user stopped a job; finished rows are kept    (exit code 130)
"""

from __future__ import annotations


class QvizError(Exception):
    """Base of all errors raised on purpose.

    Args:
        thing: what it is about, as the user named it (a path, an op, an option).
        reason: what is wrong with it.
        cure: what to do about it, an imperative sentence without the final full stop.
    """

    exit_code = 2

    def __init__(self, thing: str, reason: str, cure: str) -> None:
        self.thing = thing
        self.reason = reason
        self.cure = cure
        super().__init__(f"{thing}: {reason}. {cure}.")

    def __reduce__(self) -> tuple[type[QvizError], tuple[str, str, str]]:
        return type(self), (self.thing, self.reason, self.cure)


class InputError(QvizError):
    """Something handed to qviz cannot be used."""


class ModelError(InputError):
    """A model cannot be read or built."""


class UnsupportedModelError(ModelError):
    """torch.export refuses the model, or an op in it cannot be handled."""


class DataError(InputError):
    """Calibration or evaluation data is empty, misshapen or mislabelled."""


class NotFiniteError(InputError):
    """NaN or Inf where numbers are needed."""


class RangeError(InputError):
    """A clip range, bit width or calibrator that makes no grid."""


class ShapeError(InputError):
    """Tensors whose sizes do not fit each other."""


class RecipeError(InputError):
    """A recipe that names what the model does not have, or asks what a profile cannot do."""


class TuneError(InputError):
    """A method of winning accuracy back that cannot be applied, or whose fit fails."""


class MetricError(InputError):
    """An unknown metric, or one that does not fit the model's outputs."""


class FormatError(InputError):
    """A format that cannot express a recipe, or a file of another tool that cannot be read."""


class CheckpointError(InputError):
    """An int8 checkpoint that is damaged or was not written by qviz."""


class DeviceError(InputError):
    """A device asked for that cannot be used: not there, too old, out of memory, no compiler."""


class RunFolderError(InputError):
    """A run folder that belongs to another model or data, or cannot be written."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""


class ParityError(QvizError):
    """Integer execution differs from the simulation by more than one step."""

    exit_code = 1


class Cancelled(QvizError):  # noqa: N818 - not a failure: the user asked for it
    """The user stopped a job; finished rows are kept."""

    exit_code = 130

    def __init__(
        self,
        thing: str = "job",
        reason: str = "cancelled",
        cure: str = "Finished rows are kept; run the same command again to go on",
    ) -> None:
        super().__init__(thing, reason, cure)
