"""The three models that int8 execution is timed on, with random weights: a CNN and two encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from architectures import architecture, images, timm
from torch import Tensor, nn

from qviz.errors import MissingExtraError

#: Tokens per sample, and size of the vocabulary.
TOKENS, VOCABULARY = 128, 30522


class Classifier(nn.Module):
    """A transformers model that takes token ids alone and returns the logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``[samples, tokens]`` to logits ``[samples, classes]``; no token is hidden."""
        logits: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits


def bert_base(seed: int = 0) -> nn.Module:
    """BERT-base with a classifier: 12 layers, 768 wide, 12 heads.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    timm()  # transformers looks at torchvision too, which then has the operators it asks for
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            "benchmark", "transformers is not installed", "Run pip install transformers"
        ) from error
    torch.manual_seed(seed)
    config = transformers.BertConfig(vocab_size=VOCABULARY)
    config.num_labels = 16
    return Classifier(transformers.BertForSequenceClassification(config)).eval()


def ids(count: int, seed: int = 0) -> Tensor:
    """Random token ids, ``[count, TOKENS]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (count, TOKENS), generator=generator)


@dataclass(frozen=True)
class Timed:
    """One model to time.

    Attributes:
        make: builds it, in evaluation mode.
        inputs: of so many samples, from a seed.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor]


MODELS = {
    "resnet50": Timed(lambda: architecture("resnet50"), images),
    "vit_base_patch16_224": Timed(lambda: architecture("vit_base_patch16_224"), images),
    "bert_base": Timed(bert_base, ids),
}
