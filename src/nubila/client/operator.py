"""The routes of the operator API alone as methods, in the order of its table; see `shared`."""

from __future__ import annotations

from collections.abc import Iterator

from nubila.client.calls import ALL, NOW, Find, How, Json
from nubila.client.shared import Shared
from nubila.client.transport import segment as s


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

    def approve_node(self, node: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/nodes/{s(node)}/approve", how=how)

    def drain_node(self, node: str, reason: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/nodes/{s(node)}/drain", {"reason": reason}, how)

    def maintain_node(self, node: str, reason: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/nodes/{s(node)}/maintenance", {"reason": reason}, how)

    def return_node(self, node: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/nodes/{s(node)}/return", how=how)

    def lose_node(self, node: str, reason: str, how: How = NOW) -> Json:
        return self.write("POST", f"/v1/nodes/{s(node)}/lost", {"reason": reason}, how)

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
