"""A vision model encodes the images of items: as transformers does, once, after a kill, without those it cannot read."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from e2e.command_line import app
from edited_manifest import describe_again

from torchrec_priors.content import encode
from torchrec_priors.content.image_model import ImageModel
from torchrec_priors.content.source import images_of
from torchrec_priors.errors import UserError
from torchrec_priors.prepared.content import read_content
from torchrec_priors.prepared.data_set import PreparedData
from torchrec_priors.ranks.process import join

pytest.importorskip("transformers", reason="needs the extra `content`")
Image = pytest.importorskip("PIL.Image", reason="needs the extra `content`")

SIZE = 16
ITEMS = 20  # with an image


def write_vision_model(folder, kind="clip"):
    """Writes a CLIP or a ViT of random weights, for images of 16 x 16."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        ViTConfig,
        ViTModel,
    )

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 8,
    }
    if kind == "vit":
        ViTModel(ViTConfig(**vision)).save_pretrained(folder)
    else:
        text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 9}
        text |= {"num_attention_heads": 2, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": SIZE}
    crop = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size=size, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_vision_model(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of the items 0 to 19; those of 2 and 3 are equal, 4 is missing, 5 is no image."""
    folder = tmp_path_factory.mktemp("pictures")
    for item in range(ITEMS):
        pixels = np.random.default_rng(max(item, 3)).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{item}.png")
    (folder / "4.png").unlink()
    (folder / "5.png").write_text("this is no image")
    for item in (0, 1):
        pixels = np.random.default_rng(100 + item).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{item}.png")
    return folder


@pytest.fixture
def data(small_data, tmp_path):
    """The small data set with a column of paths, which most items lack."""
    folder = tmp_path / "data"
    shutil.copytree(small_data, folder)
    catalogue = pq.read_table(folder / "items.parquet")
    paths = [f"{item}.png" if item < ITEMS else None for item in range(len(catalogue))]
    pq.write_table(catalogue.append_column("picture", [paths]), folder / "items.parquet")
    describe_again(folder, "items.parquet")
    return folder


def run(data, model, pictures):
    encode.PIECE = 8
    with join() as ranks:
        prepared = PreparedData(data)
        source = images_of(prepared, "picture", pictures)
        return encode.encode_items(prepared, "image", model, source, ranks, batch=3), source


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_vectors_are_those_of_transformers(pictures, tmp_path, kind):
    from transformers import AutoImageProcessor, AutoModel

    folder = write_vision_model(tmp_path / kind, kind)
    paths = [str(pictures / f"{item}.png") for item in (0, 5, 1)]
    vectors = ImageModel(folder, torch.device("cpu")).encode(paths, batch=3)
    assert np.isnan(vectors[1]).all()
    network = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for path, vector in ((paths[0], vectors[0]), (paths[2], vectors[2])):
        pixels = processor(images=Image.open(path), return_tensors="pt")
        with torch.no_grad():
            if kind == "clip":
                expected = network.get_image_features(**pixels).pooler_output[0]
            else:
                expected = network(**pixels).pooler_output[0]
        torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-5, rtol=1e-5)


def test_each_image_is_encoded_once_and_what_cannot_be_read_is_counted(
    data, model, pictures, monkeypatch
):
    asked = []
    of_model = ImageModel.encode

    def fail_at_the_second(self, values, batch):
        if len(asked) == 1:
            raise MemoryError
        asked.append(values)
        return of_model(self, values, batch)

    monkeypatch.setattr(ImageModel, "encode", fail_at_the_second)
    with pytest.raises(MemoryError):
        run(data, model, pictures)
    monkeypatch.setattr(ImageModel, "encode", of_model)
    first, source = run(data, model, pictures)
    assert (first.values, first.known, first.resumed) == (ITEMS - 2, 0, 8)
    assert source.missing == 1
    assert first.info.made_by["unreadable"] == 1

    found = read_content(PreparedData(data), "image")
    assert found.item_M.tolist() == [item for item in range(ITEMS) if item not in (4, 5)]
    assert found.vector_Mc.shape == (ITEMS - 2, 12)
    assert np.array_equal(found.vector_Mc[2], found.vector_Mc[3])
    assert not np.array_equal(found.vector_Mc[1], found.vector_Mc[2])
    again, _ = run(data, model, pictures)
    assert again.known == ITEMS - 3, "only the file that is no image is tried again"


def test_mistakes_are_named(data, model, pictures, tmp_path):
    with pytest.raises(UserError, match="no column 'pictur': did you mean 'picture'"):
        images_of(PreparedData(data), "pictur", pictures)
    with pytest.raises(UserError, match="column 'frequency' holds"):
        images_of(PreparedData(data), "frequency", pictures)
    with pytest.raises(UserError, match=r"no file of column 'picture' exists .* \(20 paths\)"):
        images_of(PreparedData(data), "picture", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="cannot be loaded as a model of images"):
        run(data, tmp_path, pictures)


@pytest.mark.slow
def test_the_command_says_what_it_left_out(data, model, pictures):
    encode_images = ["content", "encode", "--data", data, "--name", "image", "--model", model]
    encode_images += ["--images", "picture", "--image-folder", pictures]
    said = app(*encode_images).stdout
    assert f"content image: {ITEMS - 2} of 150 items have a vector of 12 numbers" in said
    assert "1 images of items do not exist" in said
    assert "1 images of items cannot be read" in said
    assert f"{ITEMS - 2} distinct images: {ITEMS - 2} were encoded now" in said

    both = app(*encode_images, "--columns", "title", check=False)
    assert both.returncode == 2
    assert "--images and --columns" in both.stderr
