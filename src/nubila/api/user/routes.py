"""The end users' plane, as a table: method, path, permission, handler, body."""

from __future__ import annotations

from nubila import errors
from nubila.api.noun import change, event, image, image_content, network, operation, simple, vm, vm_more, volume
from nubila.api.noun.history import histories
from nubila.api.route import BYTES, TEXT, Route
from nubila.intent import catalog, vm_create, vm_hold
from nubila.intent import image as images
from nubila.intent import network as networks
from nubila.intent import snapshot as snapshots
from nubila.intent import vm as verbs
from nubila.intent import volume as volumes
from nubila.intent.volume_create import VolumeCreate

V = "/v1"
Q = simple.ListQuery
CLAIMS = (errors.Conflict, errors.Stale, errors.QuotaExceeded, errors.NoCapacity, errors.Invalid)
VERBS = (*CLAIMS, errors.Unsupported)
UPLOADS = (*CLAIMS, errors.TooLarge, errors.StoreFull)
UPLOAD_MAX_BYTES = 64 << 30

ROWS: tuple[Route, ...] = (
    Route("GET", f"{V}/me", "me.read", simple.me),
    Route("GET", f"{V}/project", "project.read", simple.own_project),
    Route("POST", f"{V}/vms", "vm.create", vm.create_vm, body=vm_create.VmCreate, status=201, held=True, errors=CLAIMS),
    Route("GET", f"{V}/vms", "vm.read", vm.list_vms, query=vm.VmQuery, listing=True),
    Route("GET", f"{V}/vms/{{vm}}", "vm.read", vm.show_vm),
    Route("PATCH", f"{V}/vms/{{vm}}", "vm.change", vm.change_vm, body=verbs.VmChange, errors=CLAIMS),
    Route("DELETE", f"{V}/vms/{{vm}}", "vm.remove", vm.remove_vm, status=202, held=True, errors=CLAIMS),
    Route("POST", f"{V}/vms/{{vm}}/start", "vm.start", vm.start_vm, status=202, held=True, errors=CLAIMS),
    Route(
        "POST", f"{V}/vms/{{vm}}/stop", "vm.stop", vm.stop_vm, body=verbs.VmStop, status=202, held=True, errors=CLAIMS
    ),
    Route(
        "POST",
        f"{V}/vms/{{vm}}/reboot",
        "vm.reboot",
        vm.reboot_vm,
        body=verbs.VmReboot,
        status=202,
        held=True,
        errors=CLAIMS,
    ),
    Route("POST", f"{V}/vms/{{vm}}/reset", "vm.reset", vm_more.reset_vm, status=202, held=True, errors=VERBS),
    Route("POST", f"{V}/vms/{{vm}}/suspend", "vm.suspend", vm_more.suspend_vm, status=202, held=True, errors=VERBS),
    Route("POST", f"{V}/vms/{{vm}}/resume", "vm.resume", vm_more.resume_vm, status=202, held=True, errors=VERBS),
    Route("POST", f"{V}/vms/{{vm}}/hold", "vm.hold", vm_more.hold_vm, body=vm_hold.VmHold, errors=CLAIMS),
    Route("POST", f"{V}/vms/{{vm}}/unhold", "vm.unhold", vm_more.unhold_vm, errors=CLAIMS),
    Route("GET", f"{V}/vms/{{vm}}/boot-string", "vm.read", vm_more.boot_string),
    Route("GET", f"{V}/vms/{{vm}}/user-data", "vm.read_user_data", vm_more.user_data),
    Route("GET", f"{V}/vms/{{vm}}/console", "vm.console", vm.console, query=vm.ConsoleQuery, media=(TEXT,), held=True),
    Route("GET", f"{V}/vms/{{vm}}/placement", "vm.read", vm.placement, past=False),
    Route("GET", f"{V}/events", "event.read", event.events, query=event.EventQuery, media=(event.MEDIA,), held=True),
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
    Route(
        "POST",
        f"{V}/keypairs",
        "keypair.create",
        simple.create_keypair,
        body=catalog.KeypairCreate,
        status=201,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/keypairs", "keypair.read", simple.lister("keypair", "key pairs"), query=Q, listing=True),
    Route("GET", f"{V}/keypairs/{{keypair}}", "keypair.read", simple.shower("keypair", "a key pair")),
    Route(
        "DELETE",
        f"{V}/keypairs/{{keypair}}",
        "keypair.remove",
        simple.remover("keypair", "keypair.remove", "a key pair"),
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/flavors", "flavor.read", simple.lister("flavor", "flavors"), query=Q, listing=True),
    Route("GET", f"{V}/flavors/{{flavor}}", "flavor.read", simple.shower("flavor", "a flavor")),
    Route("GET", f"{V}/images", "image.read", simple.lister("image", "images that you may use"), query=Q, listing=True),
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
        f"{V}/networks",
        "network.create",
        network.create_network,
        body=networks.NetworkCreate,
        status=201,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/networks", "network.read", simple.lister("network", "networks"), query=Q, listing=True),
    Route("GET", f"{V}/networks/{{network}}", "network.read", simple.shower("network", "a network with its subnets")),
    Route(
        "DELETE", f"{V}/networks/{{network}}", "network.remove", network.remove_network, errors=(*CLAIMS, errors.InUse)
    ),
    Route("GET", f"{V}/ports", "port.read", simple.lister("port", "ports"), query=Q, listing=True),
    Route("GET", f"{V}/volumes", "volume.read", simple.lister("volume", "volumes"), query=Q, listing=True),
    Route(
        "POST",
        f"{V}/volumes",
        "volume.create",
        volume.create_volume,
        body=VolumeCreate,
        status=201,
        held=True,
        errors=(*CLAIMS, errors.NoCapacity),
    ),
    Route("GET", f"{V}/volumes/{{volume}}", "volume.read", simple.shower("volume", "a volume")),
    Route(
        "PATCH",
        f"{V}/volumes/{{volume}}",
        "volume.change",
        volume.change_volume,
        body=volumes.VolumeChange,
        status=202,
        held=True,
        errors=(*CLAIMS, errors.Unsupported),
    ),
    Route(
        "DELETE",
        f"{V}/volumes/{{volume}}",
        "volume.remove",
        volume.remove_volume,
        status=202,
        held=True,
        errors=(*CLAIMS, errors.InUse),
    ),
    Route(
        "POST",
        f"{V}/volumes/{{volume}}/attach",
        "volume.attach",
        volume.attach_volume,
        body=volumes.VolumeAttach,
        status=202,
        held=True,
        errors=(*CLAIMS, errors.Unsupported),
    ),
    Route(
        "POST",
        f"{V}/volumes/{{volume}}/detach",
        "volume.detach",
        volume.detach_volume,
        status=202,
        held=True,
        errors=CLAIMS,
    ),
    Route(
        "POST",
        f"{V}/volumes/{{volume}}/roll-back",
        "volume.roll-back",
        volume.roll_back_volume,
        body=volumes.VolumeRollBack,
        status=202,
        held=True,
        errors=CLAIMS,
    ),
    Route(
        "POST",
        f"{V}/volumes/{{volume}}/snapshots",
        "snapshot.create",
        volume.create_snapshot,
        body=snapshots.SnapshotCreate,
        status=201,
        held=True,
        errors=(*CLAIMS, errors.Unsupported),
    ),
    Route("GET", f"{V}/snapshots", "snapshot.read", simple.lister("snapshot", "snapshots"), query=Q, listing=True),
    Route("GET", f"{V}/snapshots/{{snapshot}}", "snapshot.read", simple.shower("snapshot", "a snapshot")),
    Route(
        "DELETE",
        f"{V}/snapshots/{{snapshot}}",
        "snapshot.remove",
        volume.remove_snapshot,
        status=202,
        held=True,
        errors=CLAIMS,
    ),
    Route("GET", f"{V}/tokens", "token.read", simple.lister("token", "your tokens", own=True), query=Q, listing=True),
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
)
ROUTES = (*ROWS, *histories(ROWS))
