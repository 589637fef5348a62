"""Small random-weight models of the transformers library, each with the inputs it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qviz.errors import MissingExtraError

VOCABULARY = 1000
TOKENS = 24
SAMPLES_PER_CLIP = 3200
Inputs = dict[str, Tensor]

_TEXT = {"vocab_size": VOCABULARY, "hidden_size": 128, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "intermediate_size": 256}
_SPEECH = {"hidden_size": 64, "num_hidden_layers": 2, "conv_dim": (32,) * 7}
_AUDIO = {"num_attention_heads": 4, "intermediate_size": 128, "num_conv_pos_embeddings": 16}

#: name -> (config class, model class, config values, inputs)
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", _TEXT | _HEADS, "text"),
    "roberta": ("RobertaConfig", "RobertaModel", _TEXT | _HEADS, "text"),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCABULARY, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 256},
        "text",
    ),
    "electra": ("ElectraConfig", "ElectraModel", _TEXT | _HEADS | {"embedding_size": 64}, "text"),
    "albert": ("AlbertConfig", "AlbertModel", _TEXT | _HEADS | {"embedding_size": 64}, "text"),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 2, "n_head": 4},
        "text",
    ),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        _TEXT | {"num_attention_heads": 4, "ffn_dim": 256, "word_embed_proj_dim": 128},
        "text",
    ),
    "llama": (
        "LlamaConfig",
        "LlamaForCausalLM",
        _TEXT | _HEADS | {"num_key_value_heads": 2},
        "text",
    ),
    "t5 encoder": (
        "T5Config",
        "T5EncoderModel",
        {"vocab_size": VOCABULARY, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2},
        "text",
    ),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model", _SPEECH | _AUDIO, "audio"),
    "hubert": ("HubertConfig", "HubertModel", _SPEECH | _AUDIO, "audio"),
    "whisper encoder": (
        "WhisperConfig",
        "WhisperEncoder",
        {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128},
        "mel",
    ),
    "segformer": (
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "decoder_hidden_size": 64},
        "image",
    ),
}
_PLACES = {"WhisperEncoder": "transformers.models.whisper.modeling_whisper"}


def transformer(name: str, seed: int = 0) -> nn.Module:
    """A model of ``MODELS`` with random weights, in evaluation mode; no key-value cache.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    import importlib

    try:
        package = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtraError(
            "benchmark", "transformers is not installed", "Run pip install transformers"
        ) from error
    config_name, model_name, values, _ = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(package, config_name)(**values)
    config.use_cache = False
    place = importlib.import_module(_PLACES[model_name]) if model_name in _PLACES else package
    model: nn.Module = getattr(place, model_name)(config)
    return model.eval()


def inputs(name: str, count: int, seed: int = 0) -> Inputs:
    """``count`` random samples of what the model takes, by argument name."""
    generator = torch.Generator().manual_seed(seed)
    return _INPUTS[MODELS[name][3]](count, generator)


def _text(count: int, generator: torch.Generator) -> Inputs:
    ids = torch.randint(0, VOCABULARY, (count, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, TOKENS - 4 :] = torch.randint(0, 2, (count, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": mask}


_INPUTS: dict[str, Callable[[int, torch.Generator], Inputs]] = {
    "text": _text,
    "audio": lambda n, g: {"input_values": torch.randn(n, SAMPLES_PER_CLIP, generator=g)},
    "mel": lambda n, g: {"input_features": torch.randn(n, 80, 3000, generator=g)},
    "image": lambda n, g: {"pixel_values": torch.randn(n, 3, 128, 128, generator=g)},
}
