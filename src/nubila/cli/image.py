"""`nubila image`: what disks begin as, and what is put into drives. Uploads go on where they broke off."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from nubila.cli import exits, flow, history, progress, table, values
from nubila.cli.exits import Failure
from nubila.cli.options import Content, Either, Listing, Write, WriteEither, named, noun, verb
from nubila.cli.session import Session
from nubila.client.answers import ConnectionFailed, ProblemError
from nubila.client.shared import Shared

app = noun("image", "What disks begin as.")

PIECE_BYTES = 1 << 18
PART_BYTES = 64 << 20  # one request; what is sent of it is kept when it breaks off
ATTEMPTS = 8

Image = Annotated[str, named("image")]
Format = Annotated[Literal["qcow2", "raw", "iso", "tar"] | None, Parameter(help="What the content is.")]
Os = Annotated[str | None, Parameter(help="What runs in it.")]
Login = Annotated[str | None, Parameter(help="The account that gets the SSH keys.")]
Sha256 = Annotated[str | None, Parameter(help="The SHA-256 that the content must have.")]
LabelOption = Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class About:
    """What is said of content that comes from outside."""

    public: Annotated[bool | None, Parameter(help="Whether every project may use it (operators).")] = None
    os: Os = None
    login: Login = None
    min_disk_gib: int | None = None
    min_memory_mib: int | None = None
    label: LabelOption = None

    def body(self) -> dict[str, Any]:
        return {**{k: v for k, v in asdict(self).items() if k != "label"}, "labels": values.labels(self.label)}


@verb(app, "list", "nubila image list", "nubila image list -o wide")
def list_(*, options: Listing = Listing()) -> int:
    """List images."""
    session = Session(options)
    return flow.listing(
        "image", lambda: session.either(options.as_).images(options.find()), options, session.plane(options.as_)
    )


@verb(app, "show", "nubila image show nubila-mini")
def show(image: Image, /, *, options: Either = Either()) -> int:
    """Show an image."""
    return flow.one(Session(options).either(options.as_).image(image), options)


@verb(
    app,
    "upload",
    "nubila image upload debian-12.qcow2 --name debian-12 --format qcow2 --login debian --min-disk-gib 3",
    "nubila image upload debian-12.qcow2 --into debian-12",
)
def upload(
    file: Path,
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name of the new image.")] = None,
    format: Format = None,
    into: Annotated[
        str | None, named("image", "Go on sending the file into this image, made before, whose content is not whole.")
    ] = None,
    about: About = About(),
    options: Content = Content(),
) -> int:
    """Create an image and send its content; an upload that broke off goes on with --into."""
    if (into is None) == (name is None) or (name is not None and format is None):
        raise Failure("Give --name and --format, or --into alone.", code=exits.USAGE)
    session = Session(options)
    api = session.either(options.as_ or ("operator" if about.public else None))
    with _opened(file) as source:
        image = into or ""
        if into is None:
            body = values.given(name=name, format=format, **about.body())
            image = str(flow.subject(api.create_image(body))["id"])
        try:
            answer = _Sending(api, session, image, file, source).run()
        except ProblemError as e:
            if name is not None:
                again = f"send another file by '--into {name}', or 'nubila image delete {name}'"
                e.fix = f"{e.fix} The image '{name}' is there, without content: {again}.".strip()
            raise
    return _report(answer, options)


@verb(
    app,
    "fetch",
    "nubila image fetch https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-generic-amd64.qcow2"
    " --name debian-12 --format qcow2 --sha256 SHA256",
)
def fetch(
    url: str,
    /,
    *,
    name: Annotated[str, Parameter(help="Name of the new image.")],
    format: Annotated[Literal["qcow2", "raw", "iso", "tar"], Parameter(help="What the content is.")],
    sha256: Sha256 = None,
    about: About = About(),
    options: WriteEither = WriteEither(),
) -> int:
    """Create an image whose content Nubila fetches from an http or https address."""
    body = values.given(name=name, format=format, url=url, sha256=sha256, **about.body())
    session = Session(options)
    as_ = options.as_ or ("operator" if about.public else None)
    api, plane = session.either(as_), session.plane(as_)
    return flow.change(lambda how: api.create_image(body, how), options, session, "created", plane=plane)


@verb(
    app,
    "create",
    "nubila image create web-base --from-vm web",
    "nubila image create data-2026 --from-volume data --format raw",
)
def create(
    name: str,
    /,
    *,
    from_vm: Annotated[
        str | None, named("vm", "The VM whose boot disk becomes the image; best while it is off.")
    ] = None,
    from_volume: Annotated[str | None, named("volume", "The volume that becomes the image.")] = None,
    format: Annotated[Literal["qcow2", "raw"], Parameter(help="What the image will be.")] = "qcow2",
    os: Os = None,
    login: Login = None,
    min_memory_mib: int | None = None,
    label: LabelOption = None,
    options: Write = Write(),
) -> int:
    """Create an image from a VM's disk or a volume. --plan says which bytes these will be."""
    if (from_vm is None) == (from_volume is None):
        raise Failure("Give --from-vm or --from-volume.", code=exits.USAGE)
    body = values.given(
        name=name,
        format=format,
        vm=from_vm,
        volume=from_volume,
        os=os,
        login=login,
        min_memory_mib=min_memory_mib,
        labels=values.labels(label),
    )
    session = Session(options)
    return flow.change(lambda how: session.user.create_image(body, how), options, session, "created")


@verb(app, "share", "nubila image share web-base prj-01k9...", "nubila image share web-base shop --as operator")
def share(image: Image, project: str, /, *, options: WriteEither = WriteEither()) -> int:
    """Share an image with a project: it may make VMs from it. Users give the project's id."""
    session = Session(options)
    api, plane = session.either(options.as_), session.plane(options.as_)
    return flow.change(lambda how: api.share_image(image, project, how), options, session, "shared", plane=plane)


@verb(app, "unshare", "nubila image unshare web-base prj-01k9...")
def unshare(image: Image, project: str, /, *, options: WriteEither = WriteEither()) -> int:
    """Share an image with a project no longer. What was made from it stays."""
    session = Session(options)
    api, plane = session.either(options.as_), session.plane(options.as_)
    return flow.change(lambda how: api.unshare_image(image, project, how), options, session, "unshared", plane=plane)


@verb(app, "delete", "nubila image delete debian-12")
def delete(image: Image, /, *, options: WriteEither = WriteEither()) -> int:
    """Delete an image; refused while a VM or a disk is made from it."""
    session = Session(options)
    api, plane = session.either(options.as_), session.plane(options.as_)
    return flow.change(lambda how: api.delete_image(image, how), options, session, "deleted", plane=plane)


class _Sending:
    """One file on its way: part after part, from where the other side says that it goes on."""

    def __init__(self, api: Shared, session: Session, image: str, file: Path, source: BufferedReader) -> None:
        self._api, self._session, self._image, self._file, self._source = api, session, image, file, source
        self._size = file.stat().st_size
        self._line = progress.Line()
        self._shown = -1

    def run(self) -> flow.Json:
        try:
            offset, failures = int(self._api.image_upload(self._image)["received_bytes"]), 0
            while True:
                try:
                    answer = self._send(offset)
                    failures = 0
                except (ConnectionFailed, ProblemError) as e:
                    failures += 1
                    self._judge(e, failures)
                    offset = int(self._api.image_upload(self._image)["received_bytes"])
                    continue
                if "received_bytes" not in answer:
                    return self._compared(answer)
                offset = int(answer["received_bytes"])
        finally:
            self._line.end()

    def _send(self, offset: int) -> flow.Json:
        self._source.seek(offset)
        length = min(PART_BYTES, self._size - offset)

        def shown(sent: int) -> None:
            self._show(offset + sent)

        pieces = iter(lambda: self._source.read(min(PIECE_BYTES, offset + length - self._source.tell())), b"")
        return self._api.append_image(
            self._image, pieces, offset=offset, length=length, size_bytes=self._size, progress=shown
        )

    def _judge(self, error: ConnectionFailed | ProblemError, failures: int) -> None:
        """Whether another try makes sense; if not, how to go on later."""
        passing = isinstance(error, ConnectionFailed) or "received_bytes" in error.problem
        if passing and failures < ATTEMPTS:
            return
        if isinstance(error, ProblemError):
            raise error
        again = f"nubila image upload {self._file} --into {self._image}{self._session.again()}"
        raise Failure(error.detail, fix=f"`{again}` goes on with what is missing.", code=exits.UNAVAILABLE) from None

    def _compared(self, answer: flow.Json) -> flow.Json:
        self._source.seek(0)
        stored = table.pick(flow.subject(answer), "sha256")
        own = hashlib.file_digest(self._source, "sha256").hexdigest()
        if stored and stored != own:
            raise Failure(
                f"The stored content has the SHA-256 {stored}, the file {own}.",
                fix=f"`nubila image delete {self._image}{self._session.again()}`, then upload it again.",
            )
        return answer

    def _show(self, sent: int) -> None:
        """Which share is sent, at each whole tenth (on a terminal: each hundredth)."""
        part = 100 * sent // max(self._size, 1)
        step = part // (1 if self._line.tty else 10)
        if step != self._shown:
            self._shown = step
            self._line.show(f"{self._file.name}: {part} % of {self._size / (1 << 20):.1f} MiB")


def _report(answer: flow.Json, options: Any) -> int:
    if options.as_json:
        flow.print_json(answer)
    else:
        print(flow.summary(answer, "uploaded"))
    return exits.OK


def _opened(file: Path) -> BufferedReader:
    try:
        return file.expanduser().open("rb")
    except OSError as e:
        raise Failure(f"{file} cannot be read: {e.strerror}.", code=exits.USAGE) from None


history.of(app, "image", "images")
