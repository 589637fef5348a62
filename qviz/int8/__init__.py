"""Real integer execution: the operators of a lowered model and the kernels that run them.

Importing this package registers every operator that an exported ``model.pt2`` calls.
"""

from qviz.int8 import ops, pool

__all__ = ["ops", "pool"]
