"""Types of single values shared by all nouns: names, labels, sizes, visibility. Bounds stand here once."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from nubila.model.ids import SHAPE

Visibility = Literal["tenant", "operator", "never"]

# Where a field is shown is data beside the field: history, plans, lists, HTML and MessagePack obey this one mark.
OPERATOR = Meta(extra={"visibility": "operator"})
NEVER = Meta(extra={"visibility": "never"})

# '$' alone also matches before a last line feed. What looks like an id would be taken for another object's.
NAME_PATTERN = rf"^(?!{SHAPE}$)" + r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$(?!\n)"
Name = Annotated[
    str,
    Meta(
        pattern=NAME_PATTERN,
        min_length=1,
        max_length=63,
        description="1-63 characters: lower-case letters, digits, '-' and '.', starting and ending with a letter or digit, "
        "and not in the form of an id",
    ),
]
Address = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f.:]{2,45}$(?!\n)", description="an IPv4 or IPv6 address, as the node's links show it"),
]
Rack = Annotated[
    str, Meta(pattern=r"^$(?!\n)|" + NAME_PATTERN, max_length=63, description="a name, or nothing: it is not known")
]
LabelKey = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$(?!\n)",
        max_length=63,
        description="1-63 characters: lower-case letters, digits, '.', '_', '/' and '-', starting and ending with a letter or "
        "digit",
    ),
]
LabelValue = Annotated[str, Meta(max_length=255)]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=64)]

Cores = Annotated[int, Meta(ge=1, le=1024, description="virtual CPU cores")]
MEMORY_MIB_MAX = 16 * 1024 * 1024
SIZE_GIB_MAX = 1024 * 1024
MemoryMib = Annotated[int, Meta(ge=16, le=MEMORY_MIB_MAX, description="memory in MiB")]
SizeGib = Annotated[int, Meta(ge=1, le=SIZE_GIB_MAX, description="size in GiB")]
TimeoutS = Annotated[float, Meta(ge=1, le=3600, description="seconds")]
Reference = Annotated[str, Meta(min_length=1, max_length=80, description="an id or a name")]
UserData = Annotated[str, Meta(max_length=65536, description="passed to the guest unchanged; kept encrypted")]
BootString = Annotated[str, Meta(max_length=4096, description="opaque string passed to the guest unchanged")]
Reason = Annotated[str, Meta(max_length=500)]
