"""A language model over the texts of items: the item LLM of HLLM (Chen et al., arXiv 2409.12740).

A decoder of `transformers` reads the tokens of an item's text, and after them a learned vector
called [ITEM]. The item's vector is the last hidden state at [ITEM], divided by its length. The
texts of many items are packed in one row, and see nothing of each other (`packed_windows.py`).

Shapes: M items with a text, V tokens of all of them, U items to read, N tokens of their texts with
[ITEM] after each, h width of the language model.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from torchrec_priors.encoder.language_model import make_language_model
from torchrec_priors.encoder.packed_windows import (
    check_windows,
    read_windows,
    recompute_layers,
)
from torchrec_priors.encoder.safetensors_folder import save_weights, take_weights
from torchrec_priors.errors import UserError
from torchrec_priors.settings.items import KEY, ItemsConfig

_STD = 0.02  # of the first values of [ITEM]


class ItemLLM(nn.Module):
    """The item LLM, with the tokens of all items.

    Attributes:
        model: the decoder.
        word_table: the name that the table of words has in it.
        item_h: the vector [ITEM].
        is_trained: whether any of its parameters is trained.
        width: h.
    """

    def __init__(
        self,
        config: ItemsConfig,
        token_V: Tensor,
        first_M1: Tensor,
        longest: int,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            config: the section `items` of the configuration.
            token_V: the tokens of all texts, one text after another.
            first_M1: int64, the first token of each text; the last entry is V.
            longest: the largest number of tokens of a text, also of items that come later.
            precision: dtype of the matrix products.

        Raises:
            UserError: the language model cannot be built, cannot read packed texts, or lacks words.
        """
        super().__init__()
        self.longest = longest + 1  # with [ITEM]
        self.precision = precision
        self.is_trained = config.tuning != "frozen"
        self.model, self.word_table = make_language_model(
            config.llm,
            self.longest,
            key=KEY,
            window="the longest text with [ITEM]",
            keeps_words=True,
        )
        self.width: int = self.model.config.hidden_size
        self.item_h = nn.Parameter(torch.empty(self.width))
        if config.recompute:
            recompute_layers(self.model, "items.recompute")

        # These are no buffers, because DDP would send buffers to all ranks.
        self._token_V = token_V
        self._first_M1 = first_M1
        words = self.model.get_input_embeddings().num_embeddings
        if len(token_V) and int(token_V.max()) >= words:
            raise UserError(
                f"{KEY}: the model has {words:,} words, but items.content = '{config.content}' has "
                f"the token {int(token_V.max()):,}: use tokens of this model's tokenizer"
            )

        # On the meta device there are no values to compute with.
        if not self.item_h.is_meta:
            nn.init.normal_(self.item_h, std=_STD)
            check_windows(self.model, KEY, self.longest)
        if config.tuning == "frozen":
            self.requires_grad_(False)
        elif config.tuning == "lora":
            _add_lora(self.model, config)

    @property
    def texts(self) -> int:
        """M."""
        return len(self._first_M1) - 1

    def tokens_of(self, first: int, last: int) -> bytes:
        """Returns the tokens of texts [first, last) and their lengths, to compute a checksum."""
        first_1 = self._first_M1[first : last + 1].cpu()
        token = self._token_V[int(first_1[0]) : int(first_1[-1])].cpu()
        return token.numpy().tobytes() + first_1.diff().numpy().tobytes()

    def forward(self, text_U: Tensor) -> Tensor:
        """Returns the vectors of some items, float32 [U, h], of length 1.

        Args:
            text_U: the number of each item's text, in [0, M).
        """
        first_U = self._first_M1[text_U]
        length_U = self._first_M1[text_U + 1] - first_U
        offsets_U1 = F.pad((length_U + 1).cumsum(0), (1, 0))
        size_U = length_U + 1
        first_N = torch.repeat_interleave(first_U, size_U)
        place_N = torch.arange(len(first_N), device=first_N.device)
        place_N -= torch.repeat_interleave(offsets_U1[:-1], size_U)
        is_item_N = place_N == torch.repeat_interleave(length_U, size_U)

        # Any token is read at the place of [ITEM], whose vector replaces it.
        source_N = torch.where(is_item_N, first_N, first_N + place_N)
        words = self.model.get_input_embeddings()
        input_Nh = torch.where(is_item_N[:, None], self.item_h, words(self._token_V[source_N]))

        device = input_Nh.device.type
        reduced = self.precision != torch.float32
        with torch.autocast(device, self.precision, enabled=reduced):
            hidden_Nh = read_windows(self.model, input_Nh, offsets_U1, self.longest)
        return F.normalize(hidden_Nh[offsets_U1[1:] - 1].float(), dim=1)

    def take_weights(self, folder: Path) -> None:
        """Sets the language model's initial values to the weights of a folder.

        Raises:
            UserError: the folder has no safetensors, or not all weights of the model.
        """
        take_weights(folder, self.model, self.word_table, KEY)

    def save(self, folder: Path) -> list[Path]:
        """Writes the model in safetensors, and [ITEM] beside it. Returns the files.

        Args:
            folder: the folder, which is made; `transformers` can load it.
        """
        files = save_weights(folder, self.model)
        beside = folder / "item.safetensors"
        save_file({"item": self.item_h.detach().cpu().clone()}, beside)
        return [*files, beside]

    def move_texts(self, device: torch.device) -> None:
        """Moves the tokens to a device."""
        self._token_V = self._token_V.to(device)
        self._first_M1 = self._first_M1.to(device)


def _add_lora(model: nn.Module, config: ItemsConfig) -> None:
    """Adds low-rank matrices to all linear layers of a model; only these are trained.

    Raises:
        UserError: `peft` is not installed, or finds no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            'items.tuning = "lora" needs an extra: pip install "torchrec-priors[lora]"'
        ) from error
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        lora_dropout=0.0,  # it would depend on the state of a generator
    )
    try:
        inject_adapter_in_model(lora, model)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"items.tuning = 'lora': peft rejects this model: {reason}") from error
