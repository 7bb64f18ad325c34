"""GET /v1/items and GET /v1/users: what a person searches while typing."""

from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import Field

from torchrec_priors.service.lookup import Lookups
from torchrec_priors.service.parts import Parts
from torchrec_priors.service.routes.documented import errors
from torchrec_priors.service.shapes import Shape

Text = Annotated[str, Query(max_length=1_000)]
Limit = Annotated[int, Query(ge=1, le=50)]


class NamedItem(Shape):
    """An item of the catalogue."""

    item_id: int | str = Field(description="Original id of the item.")
    title: str = Field(description="Title; empty if the item has none.")


class ItemsAnswer(Shape):
    """The items that match, the best match first."""

    items: list[NamedItem]


class UsersAnswer(Shape):
    """The users that match."""

    users: list[str] = Field(description="Original ids, in the order of their bytes.")
    more: int = Field(description="How many further users match.")


def add(app: FastAPI, parts: Parts) -> None:
    """Adds the routes to the service."""
    lookups = Lookups()

    # The functions are not `async`, so they run in threads: a search may wait for the indexes.
    @app.get("/v1/items", responses=errors(422, 503), tags=["search"])
    def items(q: Text = "", limit: Limit = 20) -> ItemsAnswer:
        """Finds items by words of their titles, by beginnings or parts of words, or by their ids.

        Case and accents do not count. Without `q`, these are the most popular items.
        """
        with parts.versions.lease() as served:
            catalogue = served.run.catalogue
            rows = lookups.of(served.run).items(q, limit)
            found = zip(catalogue.item_ids(rows), catalogue.titles_of(rows), strict=True)
            return ItemsAnswer(
                items=[NamedItem(item_id=item, title=title) for item, title in found]
            )

    @app.get("/v1/users", responses=errors(422, 503), tags=["search"])
    def users(q: Text = "", limit: Limit = 20) -> UsersAnswer:
        """Finds users of the data set whose ids begin with `q`."""
        with parts.versions.lease() as served:
            lookup = lookups.of(served.run)
            found = lookup.users(q, limit)
            return UsersAnswer(users=found, more=lookup.count_users(q) - len(found))
