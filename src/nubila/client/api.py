"""The routes of the user and operator APIs as methods: one line each, in the order of the API's own table.

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


class UserApi(Shared):
    """What a person does in one project, which the token names."""

    def create_vm(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/vms", body, how)

    def change_vm(self, vm: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/vms/{s(vm)}", body, how)

    def reset_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/reset", how=how)

    def suspend_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/suspend", how=how)

    def resume_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/resume", how=how)

    def insert_iso(self, vm: str, image: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/insert", {"image": image}, how)

    def eject_iso(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/eject", how=how)

    def rescue_vm(self, vm: str, image: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/rescue", {"image": image}, how)

    def unrescue_vm(self, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/unrescue", how=how)

    def vm_boot_string(self, vm: str) -> Json:
        return self._one(f"/v1/vms/{s(vm)}/boot-string")

    def vm_user_data(self, vm: str) -> Json:
        return self._one(f"/v1/vms/{s(vm)}/user-data")

    def vm_console(self, vm: str, *, max_bytes: int | None = None) -> bytes:
        """The last bytes that the guest wrote to its console, as they are: they may hold terminal sequences."""
        path = f"/v1/vms/{s(vm)}/console"
        headers = {"Accept": "text/plain, application/problem+json"}
        return self.send("GET", path, query={"bytes": max_bytes}, headers=headers, timeout_s=60.0).body

    def create_volume(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/volumes", body, how)

    def change_volume(self, volume: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/volumes/{s(volume)}", body, how)

    def delete_volume(self, volume: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/volumes/{s(volume)}", how=how)

    def attach_volume(self, volume: str, vm: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/volumes/{s(volume)}/attach", {"vm": vm}, how)

    def detach_volume(self, volume: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/volumes/{s(volume)}/detach", how=how)

    def roll_back_volume(self, volume: str, snapshot: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/volumes/{s(volume)}/roll-back", {"snapshot": snapshot}, how)

    def create_snapshot(self, volume: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/volumes/{s(volume)}/snapshots", body, how)

    def delete_snapshot(self, snapshot: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/snapshots/{s(snapshot)}", how=how)

    def port(self, port: str) -> Json:
        return self._one(f"/v1/ports/{s(port)}")

    def change_port(self, port: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/ports/{s(port)}", body, how)

    def create_port(self, vm: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/vms/{s(vm)}/ports", body, how)

    def delete_port(self, port: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/ports/{s(port)}", how=how)

    def assign_address(self, port: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/ports/{s(port)}/addresses", body, how)

    def unassign_address(self, port: str, address: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/ports/{s(port)}/addresses/{s(address)}", how=how)

    def security_group(self, group: str) -> Json:
        return self._one(f"/v1/security-groups/{s(group)}")

    def create_security_group(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/security-groups", body, how)

    def change_security_group(self, group: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/security-groups/{s(group)}", body, how)

    def delete_security_group(self, group: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/security-groups/{s(group)}", how=how)

    def keypairs(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/keypairs", find)

    def keypair(self, keypair: str) -> Json:
        return self._one(f"/v1/keypairs/{s(keypair)}")

    def create_keypair(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/keypairs", body, how)

    def delete_keypair(self, keypair: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/keypairs/{s(keypair)}", how=how)

    def create_network(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/networks", body, how)

    def project(self) -> Json:
        """The token's own project, the role in it, and its quota."""
        return self._one("/v1/project")


class OperatorApi(Shared):
    """What the owners of the machines do."""

    def first_operator(self, secret: str, name: str) -> Json:
        """Make the first operator with the one-use secret that the control plane wrote; needs no token."""
        return self.write("POST", "/v1/first-operator", {"secret": secret, "name": name})

    def audit(self, anchors: tuple[str, ...] = ()) -> Json:
        """Whether the change log is what was written; over a long log this takes a while."""
        found: Json = self.send("GET", "/v1/audit", query={"anchor": anchors}, timeout_s=600.0).json()
        return found

    def operators(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/operators", find)

    def create_operator(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/operators", body, how)

    def operator(self, operator: str) -> Json:
        return self._one(f"/v1/operators/{s(operator)}")

    def delete_operator(self, operator: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/operators/{s(operator)}", how=how)

    def create_operator_token(self, operator: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/operators/{s(operator)}/tokens", body, how)

    def projects(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/projects", find)

    def project(self, project: str) -> Json:
        return self._one(f"/v1/projects/{s(project)}")

    def create_project(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/projects", body, how)

    def change_project(self, project: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/projects/{s(project)}", body, how)

    def delete_project(self, project: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/projects/{s(project)}", how=how)

    def quota(self, project: str) -> Json:
        return self._one(f"/v1/projects/{s(project)}/quota")

    def set_quota(self, project: str, limits: dict[str, int], how: How = NOW) -> Json:
        return self.write("PUT", f"/v1/projects/{s(project)}/quota", {"quota": limits}, how)

    def set_member(self, project: str, user: str, role: str, how: How = NOW) -> Json:
        return self.write("PUT", f"/v1/projects/{s(project)}/members/{s(user)}", {"role": role}, how)

    def members(self, project: str, find: Find = ALL) -> Iterator[Json]:
        """All of a project. The list is short and has no pages."""
        return iter(self.get(f"/v1/projects/{s(project)}/members")["items"][: find.limit])

    def remove_member(self, project: str, user: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/projects/{s(project)}/members/{s(user)}", how=how)

    def users(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/users", find)

    def user(self, user: str) -> Json:
        return self._one(f"/v1/users/{s(user)}")

    def create_user(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/users", body, how)

    def change_user(self, user: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/users/{s(user)}", body, how)

    def delete_user(self, user: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/users/{s(user)}", how=how)

    def create_user_token(self, user: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/users/{s(user)}/tokens", body, how)

    def create_flavor(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/flavors", body, how)

    def delete_flavor(self, flavor: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/flavors/{s(flavor)}", how=how)

    def create_join_token(self, body: Json, how: How = NOW) -> Json:
        return self.write("POST", "/v1/join-tokens", body, how)

    def join_tokens(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/join-tokens", find)

    def delete_join_token(self, join_token: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/join-tokens/{s(join_token)}", how=how)

    def nodes(self, find: Find = ALL) -> Iterator[Json]:
        return self.pages("/v1/nodes", find)

    def node(self, node: str) -> Json:
        return self._one(f"/v1/nodes/{s(node)}")

    def retire_node(self, node: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/nodes/{s(node)}", how=how)

    def change_node(self, node: str, body: Json, how: How = NOW) -> Json:
        return self.write("PATCH", f"/v1/nodes/{s(node)}", body, how)

    def drifts(self, find: Find = ALL, **only: str | None) -> Iterator[Json]:
        """`only`: cause, node and vm narrow the list."""
        return self.pages("/v1/drifts", find, **only)

    def decisions(self, find: Find = ALL, **only: str | None) -> Iterator[Json]:
        return self.pages("/v1/decisions", find, **only)

    def parked(self, find: Find = ALL) -> Iterator[Json]:
        """All of it. The list is short and has no pages."""
        return iter(self.get("/v1/parked")["items"][: find.limit])

    def drift(self, drift: str) -> Json:
        return self._one(f"/v1/drifts/{s(drift)}")

    def repair_drift(self, drift: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/drifts/{s(drift)}/repair", how=how)

    def adopt_drift(self, drift: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/drifts/{s(drift)}/adopt", how=how)

    def ignore_drift(self, drift: str, body: Json, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/drifts/{s(drift)}/ignore", body, how)

    def heed_drift(self, drift: str, how: How = NOW) -> Json:
        return self.write("DELETE", f"/v1/drifts/{s(drift)}/ignore", how=how)
