"""Queries about images: who uses one, with whom it is shared, which bytes are still some image's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from nubila.model.ids import parse
from nubila.store.database import Database, Record

USERS = """
select 'vm' as kind, id, name, project_id from vm where (image_id = $1 or media_image_id = $1) and removed_at is null
union all
select 'volume', id, name, project_id from volume where image_id = $1 and removed_at is null
 order by 1 desc, 2 limit 50
"""
SHARES = """
select s.project_id, p.name, s."right" from share s join project p on p.id = s.project_id
 where s.kind = 'image' and s.object_id = $1 order by p.name
"""
OPERATIONS = """
select to_jsonb(o)::text as row from operation o where o.resource_id = $1 and o.ended_at is null order by o.id
"""
SOURCE = "select to_jsonb(d)::text as row from volume d where d.id = $1 and (d.removed_at is null) is true"


class ImageRows:
    def __init__(self, database: Database):
        self._db = database

    async def users(self, image_id: UUID) -> list[Record]:
        """Some of what is made from an image, vms first: kind, id, name, project_id."""
        return await self._db.fetch(USERS, image_id)

    async def shares(self, image_id: UUID) -> list[Record]:
        """With whom it is shared: project_id, name, right."""
        return await self._db.fetch(SHARES, image_id)

    async def operations(self, image_id: UUID) -> list[dict[str, Any]]:
        """The operations about it that have not ended, as intents take them."""
        return [msgspec.json.decode(r["row"]) for r in await self._db.fetch(OPERATIONS, image_id)]

    async def source(self, image: Mapping[str, Any]) -> dict[str, Any] | None:
        """The volume that an image's row says it is made from, while that is there."""
        volume_id = parse("volume", image["spec"].get("volume_id") or "")
        found = None if volume_id is None else await self._db.row(SOURCE, volume_id)
        return None if found is None else msgspec.json.decode(found["row"])

    async def referring(self, sha256: str) -> int:
        """How many images have these bytes."""
        return int(await self._db.value("select count(*) from image where sha256 = $1 and removed_at is null", sha256))
