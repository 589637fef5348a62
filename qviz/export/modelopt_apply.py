"""Give your model the ranges in this folder with NVIDIA Model Optimizer (nvidia-modelopt >= 0.47).

    from apply import apply

    model = apply(model)

``model`` is your float model in eval mode, its weights loaded and its batch norms in place. It is
changed in place, as ``modelopt.torch.quantization.quantize`` does, and can then be saved with
``modelopt.torch.opt.save`` or exported. ``quant_cfg.json`` says which quantizers are on; the
calibration pass is replaced by ``amax.safetensors``.
"""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn


def apply(model: nn.Module, folder: str | Path = Path(__file__).parent) -> nn.Module:
    """Quantize a model with the ranges in a folder.

    Args:
        model: the float model; changed in place.
        folder: holds ``quant_cfg.json`` and ``amax.safetensors``.

    Returns:
        The model.

    Raises:
        ValueError: it has no such module, or other weights than the ranges were made for.
    """
    import modelopt.torch.quantization as mtq

    config = json.loads((Path(folder) / "quant_cfg.json").read_text(encoding="utf-8"))
    ranges = load_file(Path(folder) / "amax.safetensors")
    layers = dict(model.named_modules())
    for name, amax in ranges.items():
        path, _, quantizer = name.removesuffix("._amax").rpartition(".")
        if path not in layers:
            raise ValueError(f"{path}: the model has no such module. Give the one qviz opened.")
        if quantizer == "weight_quantizer" and not _inside(layers[path], amax):
            raise ValueError(f"{path}: the range is of another weight. Load the weights first.")
    quantized: nn.Module = mtq.quantize(model, config)
    for name, amax in ranges.items():
        quantized.get_submodule(name.removesuffix("._amax")).amax = amax
    return quantized


def _inside(module: nn.Module, amax: Tensor) -> bool:
    """Whether a weight has the shape of its range, and no value beyond it."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if amax.dim() and (
        amax.dim() != weight.dim()
        or any(a not in (1, w) for a, w in zip(amax.shape, weight.shape, strict=True))
    ):
        return False
    return bool((weight.detach().cpu().abs() <= 1.0001 * amax).all())
