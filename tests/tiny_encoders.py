"""Tiny random text encoders with tokenizers that need no download."""

import string

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

LETTERS = "_ " + string.ascii_lowercase + string.digits + string.punctuation


def t5(width: int = 16) -> tuple[T5Tokenizer, T5EncoderModel]:
    """A tokenizer of single letters and an encoder of one layer, in evaluation mode; seed it before."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocabulary += [(letter, -3.0) for letter in dict.fromkeys(LETTERS) if letter != " "]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=width // 2, d_ff=2 * width, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config).to(torch.float32).eval()
