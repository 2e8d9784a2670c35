"""Small nouns without a life of their own on a host: project, user, operator, key pair, flavor, token, quota."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from nubila.model.fields import Cores, MemoryMib, SizeGib

SCHEMA = 1


class Plane(StrEnum):
    USER = "user"
    OPERATOR = "operator"
    INTERNAL = "internal"


class ProjectRole(StrEnum):
    OWNER = "owner"  # everything, incl. members and tokens
    MEMBER = "member"  # everything but members
    READER = "reader"


class ProjectSpec(msgspec.Struct, frozen=True, kw_only=True):
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    suspended: bool = False


class AccountSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Of a user or an operator."""

    email: Annotated[str, msgspec.Meta(max_length=254)] = ""
    suspended: bool = False


class FlavorSpec(msgspec.Struct, frozen=True, kw_only=True):
    cores: Cores
    memory_mib: MemoryMib
    disk_gib: SizeGib
    public: bool = True


class KeypairSpec(msgspec.Struct, frozen=True, kw_only=True):
    public_key: str
    fingerprint: str


class TokenSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A token's rights. The secret itself is never stored, only its SHA-256, in an unlogged table."""

    plane: Plane
    account_id: str  # the user or operator it acts for
    project_id: str | None = None  # user plane: the one project it acts in
    role: Literal["owner", "member", "reader", "operator"] = "reader"  # a project's, or the operators' only one
    expires_at: str | None = None


class QuotaClass(StrEnum):
    VMS = "vms"
    CORES = "cores"
    MEMORY_MIB = "memory_mib"
    VOLUMES = "volumes"
    DISK_GIB = "disk_gib"
    NETWORKS = "networks"
    IMAGES = "images"


# class -> what a new project may hold
QUOTA_DEFAULT: dict[QuotaClass, int] = {
    QuotaClass.VMS: 20,
    QuotaClass.CORES: 40,
    QuotaClass.MEMORY_MIB: 65536,
    QuotaClass.VOLUMES: 40,
    QuotaClass.DISK_GIB: 1000,
    QuotaClass.NETWORKS: 10,
    QuotaClass.IMAGES: 10,
}
