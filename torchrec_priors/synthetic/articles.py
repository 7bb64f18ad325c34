"""Makes EB-NeRD's `articles.parquet` from the synthetic catalogue.

Each level-1 category is a section of the newspaper.
"""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from torchrec_priors.common.splitmix import mix, unit
from torchrec_priors.synthetic.catalogue import Catalogue

SCHEMA = pa.schema(
    {
        "article_id": pa.int32(),
        "title": pa.string(),
        "subtitle": pa.string(),
        "last_modified_time": pa.timestamp("us"),
        "premium": pa.bool_(),
        "body": pa.string(),
        "published_time": pa.timestamp("us"),
        "image_ids": pa.large_list(pa.int64()),
        "article_type": pa.string(),
        "url": pa.string(),
        "ner_clusters": pa.large_list(pa.string()),
        "entity_groups": pa.large_list(pa.string()),
        "topics": pa.large_list(pa.string()),
        "category": pa.int16(),
        "subcategory": pa.large_list(pa.int16()),
        "category_str": pa.string(),
        "total_inviews": pa.int32(),
        "total_pageviews": pa.int32(),
        "total_read_time": pa.float32(),
        "sentiment_score": pa.float32(),
        "sentiment_label": pa.string(),
    }
)

_SECTIONS = (
    "nyheder", "sport", "krimi", "underholdning", "forbrug", "nationen", "auto", "musik", "ferie",
    "sex_og_samliv",
)  # fmt: skip
_FIRST_ID = 9_000_000
_LAST_DAY = datetime(2023, 6, 1, tzinfo=UTC)
_SENTIMENTS = ("Negative", "Neutral", "Positive")


def article_ids(catalogue: Catalogue) -> np.ndarray:
    """Returns the article id of each item, by position in the catalogue."""
    ids: np.ndarray = _FIRST_ID + catalogue.item_id
    return ids


def articles(catalogue: Catalogue, seed: int) -> pa.Table:
    """Returns one row for each article, in the order of article ids."""
    # The catalogue is ordered by category, the file by id.
    order = np.argsort(catalogue.item_id)
    titles = np.array(catalogue.titles(), object)[order]
    leaf = catalogue.leaf[order]
    ids = article_ids(catalogue)[order]
    section = catalogue.top_of_leaf[leaf]

    # Attributes are drawn from a key of the article. Each attribute uses a different mix of it.
    key = mix(ids.astype(np.uint64) ^ mix(np.array([seed], np.uint64)))
    published = _published(key)
    views = (
        (1e3 * unit(mix(key)) + 1e8 * catalogue.weight[order]).astype(np.int64).clip(max=2**31 - 1)
    )
    # Three in ten articles have no counts.
    unseen = unit(mix(key + np.uint64(1))) < 0.3
    feeling = key % np.uint64(3)

    numbers = ids.tolist()
    leaves = leaf.tolist()
    sections = [_SECTIONS[number % len(_SECTIONS)] for number in section.tolist()]
    columns = {
        "article_id": pa.array(ids, pa.int32()),
        "title": titles.tolist(),
        "subtitle": [f"All about {title}" for title in titles],
        "last_modified_time": pa.array(published + 60_000_000, pa.timestamp("us")),
        "premium": pa.array(unit(mix(key + np.uint64(2))) < 0.1),
        "body": [f"{title}. Made up." for title in titles],
        "published_time": pa.array(published, pa.timestamp("us")),
        "image_ids": [None if number % 5 == 0 else [number, number + 1] for number in numbers],
        "article_type": pa.array(["article_default"] * len(ids)),
        "url": [
            f"https://example.org/{name}/{number}"
            for name, number in zip(sections, numbers, strict=True)
        ],
        "ner_clusters": _unless_every_third(numbers, "Danmark"),
        "entity_groups": _unless_every_third(numbers, "LOC"),
        "topics": _topics(catalogue, numbers, leaves),
        "category": pa.array(100 + section, pa.int16()),
        "subcategory": [[200 + number] for number in leaves],
        "category_str": sections,
        "total_inviews": pa.array(views * 10 % 2**31, pa.int32(), mask=unseen),
        "total_pageviews": pa.array(views, pa.int32(), mask=unseen),
        "total_read_time": pa.array(views * 30.0, pa.float32(), mask=unseen),
        "sentiment_score": pa.array(0.5 + unit(mix(key + np.uint64(3))) / 2, pa.float32()),
        "sentiment_label": pa.array(_SENTIMENTS).take(pa.array(feeling, pa.int64())),
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], SCHEMA)


def _published(key: np.ndarray) -> np.ndarray:
    """Returns times in microseconds, within five years before the last day.

    Most of them are near the last day.
    """
    age = (unit(key) ** 4 * 5 * 365 * 86_400).astype(np.int64)
    published: np.ndarray = (int(_LAST_DAY.timestamp()) - age) * 1_000_000
    return published


def _unless_every_third(numbers: list[int], name: str) -> list[list[str]]:
    """Returns a list with the name for each article; every third article has an empty list."""
    return [[] if number % 3 == 0 else [name] for number in numbers]


def _topics(catalogue: Catalogue, numbers: list[int], leaves: list[int]) -> list[list[str]]:
    """Returns each article's categories of level 1 and 2; one article in twenty has no topic."""
    topics = [[node.level1, node.level2.split(" > ")[1]] for node in catalogue.tree]
    return [
        [] if number % 20 == 0 else topics[leaf]
        for number, leaf in zip(numbers, leaves, strict=True)
    ]
