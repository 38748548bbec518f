"""Tiny random text and image encoders with tokenizers that need no download; seed torch before each."""

import string
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = string.ascii_lowercase + string.digits + string.punctuation
WORDS = ["a", "the", "person", "woman", "man", "dances", "walks", "turns", "in", "of", "with", "park", "red", "blue"]


def t5(width: int = 16) -> tuple[T5Tokenizer, T5EncoderModel]:
    """A tokenizer of single letters and an encoder of one layer."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocabulary += [(letter, -3.0) for letter in LETTERS]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    return tokenizer, t5_encoder(len(tokenizer), width)


def t5_encoder(tokens: int, width: int) -> T5EncoderModel:
    """An encoder of one layer for a vocabulary of so many tokens."""
    config = T5Config(
        vocab_size=tokens, d_model=width, d_kv=width // 2, d_ff=2 * width, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return ready(T5EncoderModel(config))


def clip_text(width: int = 8) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A tokenizer of single letters and an encoder of one layer."""
    names = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    tokenizer = CLIPTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(names), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=width, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return tokenizer, ready(CLIPTextModel(config))


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of a few whole words; all others are one token."""
    names = ["<pad>", "<s>", "<unk>", *WORDS]
    bare = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", bos_token="<s>", unk_token="<unk>", padding_side="right"
    )


def llama(width: int = 16) -> LlamaModel:
    """A language model of three layers for `words`."""
    config = LlamaConfig(
        vocab_size=len(words()), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0,
    )  # fmt: skip
    return ready(LlamaModel(config))


def siglip(width: int = 8) -> tuple[SiglipImageProcessor, SiglipVisionModel]:
    """An image encoder with 27 x 27 tokens."""
    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1, num_attention_heads=2, image_size=54,
        patch_size=2,
    )  # fmt: skip
    return SiglipImageProcessor(size={"height": 54, "width": 54}), ready(SiglipVisionModel(config))


def ready(model: Any) -> Any:
    """In float32 and evaluation mode."""
    return model.to(torch.float32).eval()
