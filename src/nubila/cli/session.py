"""The APIs of the chosen context, opened when they are first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from nubila.cli import contexts, exits
from nubila.cli.exits import Failure
from nubila.client.operator import OperatorApi
from nubila.client.transport import Transport
from nubila.client.user import UserApi

if TYPE_CHECKING:
    from nubila.cli.options import Common, Plane


class Session:
    """One command's way to Nubila."""

    def __init__(self, options: Common) -> None:
        self.options = options
        self.contexts = contexts.load(options.contexts)
        self.context = self.contexts.get(options.context)
        as_of, until = getattr(options, "as_of", None), getattr(options, "until", None)
        self._moment = {k: v for k, v in (("as_of", as_of), ("until", until)) if v is not None}

    @cached_property
    def user(self) -> UserApi:
        api = UserApi(self._transport("user", self.context.user_url, self.context.user_token))
        api.moment = self._moment
        return api

    @cached_property
    def operator(self) -> OperatorApi:
        api = OperatorApi(self._transport("operator", self.context.operator_url, self.context.operator_token))
        api.moment = self._moment
        return api

    def plane(self, wanted: Plane | None) -> Plane:
        """The API to ask where both could be: as asked, else the user's, else the only one that the context has."""
        if wanted is not None:
            return wanted
        return "operator" if self.context.user_token is None and self.context.operator_token else "user"

    def either(self, wanted: Plane | None) -> UserApi | OperatorApi:
        return self.operator if self.plane(wanted) == "operator" else self.user

    def again(self, wanted: Plane | None = None) -> str:
        """The options that a printed command line needs to reach the same API; begins with a space, or is empty."""
        words = ""
        if self.options.context:
            words += f" --context {self.context.name}"
        if self.options.contexts:
            words += f" --contexts {self.contexts.path}"
        return words + (" --as operator" if wanted == "operator" else "")

    def _transport(self, plane: str, url: str | None, token: str | None) -> Transport:
        missing = [what for what, value in ((f"{plane}_url", url), (f"{plane}_token", token)) if not value]
        if missing or url is None:
            raise Failure(
                f"The context {self.context.name!r} has no {' and no '.join(missing)}.",
                fix=f"Use another one with --context, or `nubila context add {self.context.name} --{plane}-url URL "
                f"--{plane}-token-file FILE`.",
                code=exits.USAGE,
            )
        try:
            return Transport(url, ca=self.contexts.resolve(self.context.ca), token=token)
        except OSError as e:  # also what ssl says of a file that is not PEM
            raise Failure(
                f"The CA file {self.contexts.resolve(self.context.ca)} cannot be used: {e.strerror or e}.",
                fix="Set it with `nubila context add NAME --ca FILE`.",
                code=exits.USAGE,
            ) from None
        except ValueError as e:
            raise Failure(f"The context {self.context.name!r}: {e}.", code=exits.USAGE) from None
