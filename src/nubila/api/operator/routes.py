"""The operators' plane, as a table: method, path, permission, handler, body."""

from __future__ import annotations

from nubila import errors
from nubila.api.noun import change, drift, image, image_content, node, operation, simple, vm, vm_more
from nubila.api.noun.history import histories
from nubila.api.route import BYTES, Route
from nubila.intent import catalog, vm_hold
from nubila.intent import drift as drifts
from nubila.intent import image as images
from nubila.intent import node as nodes

V = "/v1"
Q = simple.ListQuery
CLAIMS = (errors.Conflict, errors.Stale, errors.Invalid)
UPLOADS = (*CLAIMS, errors.TooLarge, errors.StoreFull)
UPLOAD_MAX_BYTES = 64 << 30

ROWS: tuple[Route, ...] = (
    Route(
        "POST",
        f"{V}/first-operator",
        "operator.first",
        simple.first_operator,
        body=simple.FirstOperator,
        status=201,
        plans=False,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/me", "me.read", simple.me),
    Route("GET", f"{V}/operators", "operator.read", simple.lister("operator", "operators"), query=Q, listing=True),
    Route(
        "POST",
        f"{V}/operators",
        "operator.create",
        simple.create_operator,
        body=catalog.AccountCreate,
        status=201,
        errors=CLAIMS,
    ),
    Route(
        "POST",
        f"{V}/operators/{{operator}}/tokens",
        "token.create",
        simple.create_operator_token,
        body=catalog.TokenCreate,
        status=201,
        plans=False,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/projects", "project.read", simple.lister("project", "projects"), query=Q, listing=True),
    Route(
        "POST",
        f"{V}/projects",
        "project.create",
        simple.create_project,
        body=catalog.ProjectCreate,
        status=201,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/projects/{{project}}", "project.read", simple.shower("project", "a project")),
    Route(
        "PATCH",
        f"{V}/projects/{{project}}",
        "project.change",
        simple.change_project,
        body=catalog.ProjectChange,
        errors=CLAIMS,
    ),
    Route(
        "DELETE",
        f"{V}/projects/{{project}}",
        "project.remove",
        simple.remover("project", "project.remove", "a project"),
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/projects/{{project}}/quota", "quota.read", simple.show_quota),
    Route(
        "PUT",
        f"{V}/projects/{{project}}/quota",
        "quota.change",
        simple.change_quota,
        body=catalog.QuotaChange,
        errors=CLAIMS,
    ),
    Route(
        "PUT",
        f"{V}/projects/{{project}}/members/{{user}}",
        "member.change",
        simple.set_member,
        body=catalog.MemberChange,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/users", "user.read", simple.lister("user", "users"), query=Q, listing=True),
    Route(
        "POST", f"{V}/users", "user.create", simple.create_user, body=catalog.AccountCreate, status=201, errors=CLAIMS
    ),
    Route("GET", f"{V}/users/{{user}}", "user.read", simple.shower("user", "a user")),
    Route("PATCH", f"{V}/users/{{user}}", "user.change", simple.change_user, body=catalog.AccountChange, errors=CLAIMS),
    Route(
        "POST",
        f"{V}/users/{{user}}/tokens",
        "token.create",
        simple.create_user_token,
        body=catalog.TokenCreate,
        status=201,
        plans=False,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/tokens", "token.read", simple.lister("token", "tokens"), query=Q, listing=True),
    Route(
        "POST",
        f"{V}/tokens",
        "token.create",
        simple.create_own_token,
        body=catalog.TokenCreate,
        status=201,
        plans=False,
        errors=CLAIMS,
    ),
    Route("DELETE", f"{V}/tokens/{{token}}", "token.remove", simple.remove_token, errors=CLAIMS),
    Route("GET", f"{V}/flavors", "flavor.read", simple.lister("flavor", "flavors"), query=Q, listing=True),
    Route(
        "POST",
        f"{V}/flavors",
        "flavor.create",
        simple.create_flavor,
        body=catalog.FlavorCreate,
        status=201,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/flavors/{{flavor}}", "flavor.read", simple.shower("flavor", "a flavor")),
    Route(
        "DELETE",
        f"{V}/flavors/{{flavor}}",
        "flavor.remove",
        simple.remover("flavor", "flavor.remove", "a flavor"),
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/images", "image.read", simple.lister("image", "images"), query=Q, listing=True),
    Route(
        "POST", f"{V}/images", "image.create", image.create_image, body=images.ImageCreate, status=201, errors=CLAIMS
    ),
    Route("GET", f"{V}/images/{{image}}", "image.read", simple.shower("image", "an image")),
    Route(
        "PUT",
        f"{V}/images/{{image}}/content",
        "image.upload",
        image_content.upload_image,
        upload=True,
        max_bytes=UPLOAD_MAX_BYTES,
        plans=False,
        errors=UPLOADS,
    ),
    Route(
        "PATCH",
        f"{V}/images/{{image}}/content",
        "image.upload",
        image_content.append_content,
        query=image_content.ContentQuery,
        upload=True,
        max_bytes=UPLOAD_MAX_BYTES,
        plans=False,
        errors=UPLOADS,
    ),
    Route("GET", f"{V}/images/{{image}}/content", "image.download", image_content.download_image, media=(BYTES,)),
    Route("GET", f"{V}/images/{{image}}/upload", "image.upload", image_content.upload_state),
    Route("GET", f"{V}/images/{{image}}/shares", "image.share", image.list_shares),
    Route(
        "PUT",
        f"{V}/images/{{image}}/shares/{{project}}",
        "image.share",
        image.share_image,
        body=images.Sharing,
        errors=CLAIMS,
    ),
    Route("DELETE", f"{V}/images/{{image}}/shares/{{project}}", "image.share", image.unshare_image, errors=CLAIMS),
    Route("DELETE", f"{V}/images/{{image}}", "image.remove", image.remove_image, errors=(*CLAIMS, errors.InUse)),
    Route(
        "POST",
        f"{V}/join-tokens",
        "join_token.create",
        node.create_join_token,
        body=nodes.JoinTokenCreate,
        status=201,
        plans=False,
    ),
    Route("GET", f"{V}/nodes", "node.read", simple.lister("node", "nodes"), query=Q, listing=True),
    Route("GET", f"{V}/nodes/{{node}}", "node.read", simple.shower("node", "a node")),
    Route("PATCH", f"{V}/nodes/{{node}}", "node.change", node.change_node, body=nodes.NodeChange, errors=CLAIMS),
    Route("GET", f"{V}/drifts", "drift.read", drift.list_drifts, query=drift.DriftQuery, listing=True),
    Route("GET", f"{V}/drifts/{{drift}}", "drift.read", simple.shower("drift", "a drift")),
    Route("POST", f"{V}/drifts/{{drift}}/repair", "drift.repair", drift.repair_drift, status=202, errors=CLAIMS),
    Route("POST", f"{V}/drifts/{{drift}}/adopt", "drift.adopt", drift.adopt_drift, status=202, errors=CLAIMS),
    Route(
        "POST",
        f"{V}/drifts/{{drift}}/ignore",
        "drift.ignore",
        drift.ignore_drift,
        body=drifts.DriftIgnore,
        errors=CLAIMS,
    ),
    Route("DELETE", f"{V}/drifts/{{drift}}/ignore", "drift.ignore", drift.heed_drift, errors=CLAIMS),
    Route("GET", f"{V}/vms", "vm.read", vm.list_vms, query=vm.VmQuery, listing=True),
    Route("GET", f"{V}/vms/{{vm}}", "vm.read", vm.show_vm),
    Route("POST", f"{V}/vms/{{vm}}/hold", "vm.hold", vm_more.hold_vm, body=vm_hold.VmHold, errors=CLAIMS),
    Route("POST", f"{V}/vms/{{vm}}/unhold", "vm.unhold", vm_more.unhold_vm, errors=CLAIMS),
    Route("GET", f"{V}/vms/{{vm}}/placement", "vm.read", vm.placement, past=False),
    Route(
        "GET",
        f"{V}/networks",
        "network.read",
        simple.lister("network", "networks of all projects"),
        query=Q,
        listing=True,
    ),
    Route("GET", f"{V}/ports", "port.read", simple.lister("port", "ports of all projects"), query=Q, listing=True),
    Route(
        "GET", f"{V}/volumes", "volume.read", simple.lister("volume", "volumes of all projects"), query=Q, listing=True
    ),
    Route("GET", f"{V}/volumes/{{volume}}", "volume.read", simple.shower("volume", "a volume")),
    Route(
        "GET",
        f"{V}/snapshots",
        "snapshot.read",
        simple.lister("snapshot", "snapshots of all projects"),
        query=Q,
        listing=True,
    ),
    Route("GET", f"{V}/snapshots/{{snapshot}}", "snapshot.read", simple.shower("snapshot", "a snapshot")),
    Route("GET", f"{V}/changes", "change.read", change.list_changes, query=change.ChangeQuery, held=True),
    Route(
        "GET",
        f"{V}/operations",
        "operation.read",
        operation.list_operations,
        query=operation.OperationQuery,
        listing=True,
    ),
    Route("GET", f"{V}/operations/{{operation}}", "operation.read", operation.show_operation, held=True),
    Route("GET", f"{V}/operations/{{operation}}/why", "operation.read", operation.why_operation, past=False),
    Route(
        "POST", f"{V}/operations/{{operation}}/cancel", "operation.cancel", operation.cancel_operation, errors=CLAIMS
    ),
    Route("GET", f"{V}/plans", "plan.read", operation.list_plans),
    Route("GET", f"{V}/plans/{{plan:plan}}", "plan.read", operation.show_plan),
    Route("DELETE", f"{V}/plans/{{plan:plan}}", "plan.remove", operation.discard_plan, status=204, plans=False),
    Route(
        "POST",
        f"{V}/plans/{{plan:plan}}/apply",
        "plan.apply",
        operation.apply_plan,
        held=True,
        plans=False,
        errors=CLAIMS,
    ),
)
ROUTES = (*ROWS, *histories(ROWS))
