"""Put the int8 weights and static input scales in this folder into your model's linear layers.

    from apply import apply

    model = apply(model)

``model`` is your float model in eval mode. The weight of each layer named in ``model.safetensors``
becomes a ``torchao.quantization.Int8Tensor`` (torchao >= 0.18); everything else is left alone, so
biases must be loaded. Afterwards ``torch.compile(model)`` gives the speed, and
``torch.save(model.state_dict(), path)`` keeps the result. On a CPU it needs VNNI: without it
torch's integer product saturates.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn


def apply(model: nn.Module, folder: str | Path = Path(__file__).parent) -> nn.Module:
    """Make the linear layers named in a folder int8.

    The integers are taken as they are: torchao's own quantizer would divide by amax / 127.5.

    Args:
        model: the float model; changed in place.
        folder: holds ``model.safetensors``.

    Returns:
        The model.

    Raises:
        ValueError: a layer is no linear layer of that size.
    """
    from torchao.quantization import (
        Int8StaticActivationInt8WeightConfig,
        Int8Tensor,
        PerRow,
        PerTensor,
    )

    static = Int8StaticActivationInt8WeightConfig(granularity=[PerTensor(), PerRow()])
    tensors = load_file(Path(folder) / "model.safetensors")
    modules = dict(model.named_modules())
    for name, codes in tensors.items():
        path, _, part = name.rpartition(".")
        if part != "weight":
            continue
        layer = modules.get(path)
        if not isinstance(layer, nn.Linear) or layer.weight.shape != codes.shape:
            raise ValueError(f"{path}: no linear layer of that size. Give the model qviz opened.")
        scales = [tensors[f"{name}_scale"], tensors[f"{name.removesuffix('weight')}input_scale"]]
        device = layer.weight.device
        weight = Int8Tensor(
            codes.to(device),
            scales[0].to(device),
            [1, codes.shape[1]],
            layer.weight.dtype,
            act_quant_scale=scales[1].to(device),
            act_quant_kwargs=static.get_act_quant_kwargs(),
        )
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return model
