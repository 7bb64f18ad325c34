"""Writes folders of tiny decoders with random weights and a tokenizer of characters, as `save_pretrained` does."""

from pathlib import Path

import torch

LETTERS = [chr(code) for code in range(32, 127)]
SIZES = {
    "vocab_size": len(LETTERS) + 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


def write_language_model(folder: Path, model_type: str = "llama", *, seed: int = 0) -> Path:
    """Writes a decoder with a layer that predicts words, as most folders have it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(["<s>", "<unk>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    fast.save_pretrained(folder)

    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
