"""Real integer execution: the operators of a lowered model and the kernels that run them."""
