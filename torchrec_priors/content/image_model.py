"""A vision model of `transformers`: turns images into vectors.

Models that compare images with texts, such as CLIP and SigLIP, have a vector for this purpose.
Other models have the vector that they pool from their patches.

Shapes: B images, c width of the vectors.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_priors.errors import UserError

_OPTION = "--model"


class ImageModel:
    """A vision model in memory.

    Attributes:
        dim: c.
    """

    def __init__(
        self, folder: Path, device: torch.device, precision: torch.dtype = torch.float32
    ) -> None:
        """Loads a model. Its folder is only read: code in it is not executed.

        Args:
            folder: a folder that `transformers` has written, with `preprocessor_config.json`.
            device: where the model computes.
            precision: dtype of the matrix products.

        Raises:
            UserError: the folder holds no model of this kind, or a library is not installed.
        """
        try:
            from PIL import Image
            from transformers import AutoImageProcessor, AutoModel  # seconds, an optional library
        except ImportError as error:
            raise UserError(
                "--images needs transformers and pillow: pip install 'torchrec-priors[content]'"
            ) from error
        self._open = Image.open
        # What Pillow raises for files that it cannot read, and for those that are too large.
        self._unreadable = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

        given = {"local_files_only": True, "trust_remote_code": False}
        try:
            # Torchvision resizes images with other rounding, so Pillow does it everywhere.
            self._processor: Any = AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", **given
            )
            model = AutoModel.from_pretrained(str(folder), dtype=torch.float32, **given)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{_OPTION}: '{folder}' cannot be loaded as a model of images ({reason})"
            ) from error
        self._model: Any = model.to(device).eval()
        self._device = device
        self._precision = precision

        # This also shows that the model makes a vector of an image.
        blank = self._pixels(Image.new("RGB", (32, 32)))
        with torch.inference_mode():
            self.dim: int = self._vectors(blank[None]).shape[1]

    @torch.inference_mode()
    def encode(self, values: list[str], batch: int) -> np.ndarray:
        """Returns the vector of each image, float32 [B, c]; NaN for files that are no images.

        Args:
            values: the paths of the images.
            batch: number of images that are computed together.
        """
        vector_Bc = np.full((len(values), self.dim), np.nan, np.float32)
        for first in range(0, len(values), batch):
            numbers = []
            images = []
            for number, path in enumerate(values[first : first + batch], first):
                image = self._read(path)
                if image is not None:
                    numbers.append(number)
                    images.append(image)
            if images:
                vector_Bc[numbers] = self._vectors(torch.stack(images)).cpu().numpy()
        return vector_Bc

    def _read(self, path: str) -> Tensor | None:
        """Returns what the model reads of an image; None if the file is no image."""
        try:
            with self._open(path) as image:
                rgb = image.convert("RGB")
        except self._unreadable:
            return None
        return self._pixels(rgb)

    def _pixels(self, image: Any) -> Tensor:
        """Returns the numbers of an image of Pillow, [channels, height, width]."""
        pixels: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def _vectors(self, pixels: Tensor) -> Tensor:
        """Returns the vectors of images, float32 [B, c]."""
        pixels = pixels.to(self._device)
        reduced = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision, enabled=reduced):
            if hasattr(self._model, "get_image_features"):
                found = self._model.get_image_features(pixel_values=pixels)
            else:
                found = self._model(pixel_values=pixels)
        # Earlier releases of transformers return the features themselves.
        vector_Bc = found if isinstance(found, Tensor) else found.pooler_output
        if vector_Bc is None:
            raise UserError(
                f"{_OPTION}: {self._model.config.model_type} makes no vector of an image"
            )
        return vector_Bc.float()
