"""The routes of the user API alone as methods, in the order of its table; see `shared`."""

from __future__ import annotations

from collections.abc import Iterator

from nubila.client.calls import ALL, NOW, Find, How, Json
from nubila.client.shared import Shared
from nubila.client.transport import segment as s


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
