"""The routes of both APIs as methods: one line each, in the order of the API's own table. Those of one API alone are in
`user` and `operator`.

Called by the CLI and by bootstrap. Objects are passed and returned as the API's JSON; names and ids are both accepted
where a method takes a name. Lists are followed to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nubila.client.answers import Response, expect
from nubila.client.calls import ALL, NOW, Calls, Find, How, Json
from nubila.client.events import following
from nubila.client.transport import segment as s

UPLOAD_TIMEOUT_S = 600.0  # between two pieces; the server hashes and stores at the end


class Shared(Calls):
    """What both APIs offer under the same paths."""

    def me(self) -> Json:
        return self._one("/v1/me")

    def vms(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/vms", find)

    def vm(self, vm: str) -> Json:
        return self._one(f"/v1/vms/{s(vm)}")

    def hold_vm(self, vm: str, reason: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/hold", {"reason": reason}, how)

    def unhold_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/unhold", how=how)

    def vm_placement(self, vm: str) -> Json:
        return self._one(f"/v1/vms/{s(vm)}/placement")

    def delete_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/vms/{s(vm)}", how=how)

    def start_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/start", how=how)

    def stop_vm(self, vm: str, *, mode: str = "clean", timeout_s: float | None = None, how: How = NOW) -> Json:
        body: Json = {"mode": mode} if timeout_s is None else {"mode": mode, "timeout_s": timeout_s}
        return self.write("POST", f"/v1/vms/{s(vm)}/stop", body, how)

    def reboot_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/reboot", how=how)

    def events(self, query: Json) -> Iterator[Json]:
        """Changes as they come, each with its cursor under 'cursor'; goes on after a lost connection, for ever."""
        return following(self.transport, query)

    def operations(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/operations", find)

    def operation(self, operation: str) -> Json:
        return self._one(f"/v1/operations/{s(operation)}")

    def operation_why(self, operation: str) -> Json:
        return self._one(f"/v1/operations/{s(operation)}/why")

    def cancel_operation(self, operation: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/operations/{s(operation)}/cancel", how=how)

    def plans(self, find: Find = ALL) -> Iterator[Json]:
        """Yours that can still be applied. The list is short and has no pages."""
        return iter(self.get("/v1/plans")["items"][: find.limit])

    def plan(self, plan: str) -> Json:
        return self._one(f"/v1/plans/{s(plan)}")

    def apply_plan(self, plan: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/plans/{s(plan)}/apply", how=how)

    def discard_plan(self, plan: str) -> Json:
        return self.write("DELETE", f"/v1/plans/{s(plan)}")

    def flavors(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/flavors", find)

    def flavor(self, flavor: str) -> Json:
        return self._one(f"/v1/flavors/{s(flavor)}")

    def images(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/images", find)

    def image(self, image: str) -> Json:
        return self._one(f"/v1/images/{s(image)}")

    def create_image(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/images", body, how)

    def delete_image(self, image: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/images/{s(image)}", how=how)

    def share_image(self, image: str, project: str, how: How = NOW) -> Json:
        return self.write("PUT", f"/v1/images/{s(image)}/shares/{s(project)}", {"right": "use"}, how)

    def unshare_image(self, image: str, project: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/images/{s(image)}/shares/{s(project)}", how=how)

    def image_upload(self, image: str) -> Json:
        """What has come of an image's content."""
        return self._one(f"/v1/images/{s(image)}/upload")

    def append_image(
        self,
        image: str,
        source: Iterable[bytes],
        *,
        offset: int,
        length: int,
        size_bytes: int,
        progress: Callable[[int], None] | None = None,
    ) -> Json:
        """Send a part of an image's content, `length` bytes from `offset` on. Not repeated by itself."""
        response: Response = self.transport.upload(
            "PATCH",
            f"/v1/images/{s(image)}/content",
            source,
            length=length,
            query={"offset": offset, "size_bytes": size_bytes},
            progress=progress,
            timeout_s=UPLOAD_TIMEOUT_S,
        )
        found: Json = expect(response).json()
        return found

    def networks(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/networks", find)

    def network(self, network: str) -> Json:
        return self._one(f"/v1/networks/{s(network)}")

    def delete_network(self, network: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/networks/{s(network)}", how=how)

    def security_groups(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/security-groups", find)

    def ports(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/ports", find)

    def volumes(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/volumes", find)

    def volume(self, volume: str) -> Json:
        return self._one(f"/v1/volumes/{s(volume)}")

    def snapshots(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/snapshots", find)

    def snapshot(self, snapshot: str) -> Json:
        return self._one(f"/v1/snapshots/{s(snapshot)}")

    def tokens(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/tokens", find)

    def create_token(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/tokens", body, how)

    def delete_token(self, token: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/tokens/{s(token)}", how=how)

    def _one(self, path: str) -> Json:
        """With its ETag as `etag`, so that it can be sent back in If-Match."""
        found, etag = self.tagged(path)
        return found if etag is None else {**found, "etag": etag.strip('"')}
