"""Writes docs/requirements.md: what Nubila is to be able to do, and which test shows it. Run it as a script.

The table is the truth and is edited here. A line is done when the test it names runs on real parts (PostgreSQL,
libvirt, a bridge, a guest) and passes; a fake, a part of the line or a plan to do it leave it 'open'.
`tests/unit/test_docs.py` compares the file with this table, and looks whether each named test exists.
"""

from __future__ import annotations

import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "requirements.md"
OPEN = "open"

UP = "tests/up/test_make.py::test_up_down_up_destroy_leave_the_machine_as_it_was"
QUOTA = "tests/store/test_commit.py::test_quota_race_makes_exactly_n"
CAPACITY = "tests/store/test_commit.py::test_capacity_race_never_oversells"
PLANES = "tests/fleet/test_fleet_isolation.py::test_a4_tokens_of_another_plane_are_refused_on_every_route"
FOREIGN = "tests/fleet/test_fleet_isolation.py::test_a1_a_foreign_id_is_answered_as_an_absent_one"
NAMED = "tests/fleet/test_fleet_isolation.py::test_a2_a_foreign_id_in_a_body_is_answered_as_an_absent_one"
ROLES = "tests/fleet/test_fleet_isolation.py::test_a_reader_reads_and_writes_nothing"
SPOOF = "tests/drivers/test_driver_bridge_frames.py::test_is_dropped"
DETACH = "tests/drivers/test_driver_network.py::test_removed_twice_is_gone_and_others_stay"
UNASSIGN = "tests/drivers/test_driver_bridge_dhcp.py::test_a_removed_ports_address_is_free_at_once"
PORTS = "tests/fleet/test_fleet_ports.py::test_a_port_is_added_to_a_running_vm_and_removed_again"
ADDRESSES = "tests/fleet/test_fleet_ports.py::test_addresses_are_assigned_and_unassigned_on_a_running_vm"
NODES = "tests/fleet/test_fleet_nodes.py::test_a_node_waits_for_the_addresses_that_its_roles_need_and_runs_only_what_they_say"
FREE = "tests/unit/test_docs.py::test_the_licence_is_apache_2_and_contributing_is_explained"

# number of a group's first line -> its title
GROUPS: dict[int, str] = {
    1: "API",
    24: "Compute",
    56: "Storage",
    81: "Network",
    109: "Images",
    118: "Boot and provisioning",
    128: "Scheduling and cluster",
    150: "Guest configuration",
    169: "People and projects",
    180: "Web and command line",
    190: "Metrics",
    195: "High availability",
    201: "Configuration management",
    208: "The project itself",
    212: "Further",
}

# (number, what it is, test as path::name or 'open')
REQUIREMENTS: tuple[tuple[int, str, str], ...] = (
    (
        1,
        "end-user API, a service of its own: create, delete, reboot VMs and the other verbs",
        "tests/real/test_vm_life.py::test_create_gives_a_guest_of_its_own_with_what_was_asked",
    ),
    (2, "operator API, a service of its own: hypervisors, users, settings", OPEN),
    (3, "internal API, a service of its own: hosts call it and never the database", UP),
    (4, "each of the three APIs has its own security model and credentials", PLANES),
    (5, "one central, relational, persistent PostgreSQL behind all three APIs", UP),
    (6, "part of the operators' settings as text files, namespaced and with defaults", OPEN),
    (7, "REST for every resource: create, read, update, delete on every table", OPEN),
    (
        8,
        "an answer only after the request is durably saved",
        "tests/fleet/test_fleet_faults.py::test_kill_9_of_a_process_in_a_burst_loses_nothing",
    ),
    (9, "JSON, MessagePack and HTML by content negotiation", OPEN),
    (10, "an interactive shell over the models", OPEN),
    (11, "API fit for customers themselves: secure by design, each sees their own", OPEN),
    (12, "versioned URLs, one form of success and error with error ids, keyed objects, nesting", OPEN),
    (13, "one API for programs and for people, administrators and customers", OPEN),
    (14, "EC2-compatible interface", OPEN),
    (15, "OpenStack (Rackspace 1.0) compatible interface", OPEN),
    (16, "several API families side by side over one core", OPEN),
    (17, "authentication, then authorization of each command", ROLES),
    (18, "every object that a request names is checked before the request is accepted", NAMED),
    (19, "a caller may wait for the worker's result, or be answered on acceptance", OPEN),
    (20, "the central API in a highly available VM, reached by CLI and web", OPEN),
    (21, "Deltacloud-like API: instances, images, realms, profiles, volumes, keys", OPEN),
    (
        22,
        "a launch takes a small opaque string and hands it to the instance unchanged",
        "tests/real/test_vm_life.py::test_create_gives_a_guest_of_its_own_with_what_was_asked",
    ),
    (23, "the API scales to several thousand machines", OPEN),
    (24, "create a VM", UP),
    (25, "delete a VM", "tests/real/test_vm_life.py::test_remove_leaves_nothing_of_it"),
    (26, "start a VM", "tests/real/test_vm_life.py::test_clean_stop_ends_the_guest_and_start_boots_it_with_its_disk"),
    (27, "stop a VM hard", "tests/real/test_vm_life.py::test_hard_stop_ends_it_at_once"),
    (28, "reset a VM", "tests/real/test_vm_verbs.py::test_reset_boots_it_at_once_without_asking"),
    (29, "reboot a VM", "tests/real/test_vm_life.py::test_reboot_boots_the_same_guest_anew"),
    (
        30,
        "clean shutdown with the guest's help",
        "tests/real/test_vm_life.py::test_clean_stop_ends_the_guest_and_start_boots_it_with_its_disk",
    ),
    (
        31,
        "suspend, power off, restart and further variants",
        "tests/real/test_vm_verbs.py::test_suspended_it_stands_still_and_goes_on_where_it_was",
    ),
    (32, "console output", "tests/real/test_vm_life.py::test_create_gives_a_guest_of_its_own_with_what_was_asked"),
    (
        33,
        "attach and detach an ISO while the VM runs",
        "tests/real/test_vm_verbs.py::test_an_iso_is_inserted_read_and_ejected_while_it_runs",
    ),
    (
        34,
        "add and remove further drives",
        "tests/real/test_volumes.py::test_a_volume_comes_grows_and_goes_while_the_guest_runs",
    ),
    (
        35,
        "attach a volume to a running instance",
        "tests/real/test_volumes.py::test_a_volume_comes_grows_and_goes_while_the_guest_runs",
    ),
    (36, "detach a volume", "tests/real/test_volumes.py::test_a_volume_comes_grows_and_goes_while_the_guest_runs"),
    (37, "offline migration", OPEN),
    (38, "live migration", OPEN),
    (39, "VM attributes: cores, memory, CPU-time limit, uuid, customer, state from a fixed list", OPEN),
    (40, "a VM is bound to one virtualization method on one node", OPEN),
    (41, "a VM has at least one disk and one interface", OPEN),
    (42, "several virtualization methods per hypervisor: KVM, QEMU, containers and others", OPEN),
    (43, "KVM driver over libvirt, its XML built by a library", OPEN),
    (44, "Debian hosts; Linux guests fully, Windows and FreeBSD guests with virtio", OPEN),
    (
        45,
        "most settings of a VM change without stopping it",
        "tests/real/test_vm_verbs.py::test_size_changes_live_where_it_can",
    ),
    (46, "several hypervisors with local and with shared storage", OPEN),
    (47, "swap on the host's local SSD, managed per VM", OPEN),
    (48, "VNC: a local port is forwarded to a VM's screen", OPEN),
    (49, "metrics per instance", OPEN),
    (50, "tools inside Linux guests (agent)", OPEN),
    (51, "node resource: addresses, FQDN, location, state", NODES),
    (
        52,
        "node roles: one or more per node, each with attributes",
        "tests/unit/test_node.py::test_an_attribute_belongs_to_its_role",
    ),
    (53, "hypervisor role: capacity, image directory, LVM group", OPEN),
    (54, "flavors (sizes of instances)", OPEN),
    (
        55,
        "a volume is attached to one instance at a time and can move",
        "tests/real/test_volumes.py::test_a_volume_goes_to_another_vm_with_its_bytes",
    ),
    (56, "create a VM's drive: system and data on iSCSI, swap on local SSD", OPEN),
    (57, "delete a VM's drive", "tests/real/test_volumes.py::test_a_volume_comes_grows_and_goes_while_the_guest_runs"),
    (
        58,
        "block devices as a resource: at most one VM each, several per VM",
        "tests/real/test_volumes.py::test_a_volume_goes_to_another_vm_with_its_bytes",
    ),
    (59, "kinds of storage, each with attributes of its own", OPEN),
    (60, "local formats qcow2, raw and LVM volumes", OPEN),
    (61, "Ceph RBD (pool, discard) with its node roles", OPEN),
    (62, "Ceph OSD role: disks, journal on SSD", OPEN),
    (63, "Ceph monitor role: port, CRUSH map", OPEN),
    (64, "Ceph secrets are handled", OPEN),
    (
        65,
        "I/O limits: operations and bytes per second, reads and writes",
        "tests/real/test_volumes.py::test_limits_hold_at_once_burst_after_a_rest_and_are_lifted",
    ),
    (
        66,
        "cache mode per device",
        "tests/real/test_volumes.py::test_a_volume_grows_and_changes_its_cache_mode_while_no_guest_has_it",
    ),
    (67, "LVM volumes over iSCSI: create, delete, export to compute", OPEN),
    (68, "iSCSI multipath from hypervisors", OPEN),
    (69, "two storage servers with DRBD replication and failover on 10GE", OPEN),
    (70, "the stack RAID, DRBD, LVM, VM, LVM, target", OPEN),
    (71, "storage servers as VMs: create, delete, start, stop, reset", OPEN),
    (72, "attach a storage VM to a VLAN and detach it", OPEN),
    (73, "usage per iSCSI export", OPEN),
    (
        74,
        "offline resize of drives",
        "tests/real/test_volumes.py::test_a_volume_grows_and_changes_its_cache_mode_while_no_guest_has_it",
    ),
    (75, "snapshots: create, list, delete, roll back, download", OPEN),
    (76, "automatic backups for every kind of storage", OPEN),
    (77, "a storage network and a backup network per node", NODES),
    (78, "a golden image mounted read-only in several VMs", OPEN),
    (79, "virtual NFS server for shared data (ISOs)", OPEN),
    (80, "storage nodes are managed by the platform", OPEN),
    (81, "bridges on hosts are managed", UP),
    (82, "attach a tap to a bridge", UP),
    (83, "detach a tap", DETACH),
    (84, "IP and MAC anti-spoofing per interface", SPOOF),
    (85, "give an IP to a VM", UP),
    (86, "take an IP back", UNASSIGN),
    (87, "IPv4 and IPv6 pools, several addresses for one interface", ADDRESSES),
    (88, "interfaces with a unique MAC, several per VM, named after VM and number", PORTS),
    (89, "a bridge per interface, named after it", OPEN),
    (90, "interfaces in VLANs and VXLANs; customers' own networks across nodes", OPEN),
    (91, "VLANs: attach and detach a VM", OPEN),
    (92, "a VLAN per project", OPEN),
    (93, "networks appear on compute nodes on demand", UP),
    (94, "IP-to-MAC assignments are pushed to routers and switches", OPEN),
    (95, "usage per IP", OPEN),
    (96, "virtual routers: create, delete, start, stop, reset", OPEN),
    (97, "attach a virtual router to a VLAN and detach it", OPEN),
    (98, "a user can be locked inside one VLAN", OPEN),
    (99, "firewall agent: takes rules from the internal API and applies them per guest", OPEN),
    (
        100,
        "security groups: port, protocol, source or group",
        "tests/drivers/test_driver_bridge_groups.py::test_a_rule_lets_in_what_it_names_and_no_more",
    ),
    (101, "networks and ranges bound to hypervisors; search for a free address", OPEN),
    (102, "floating addresses with NAT", OPEN),
    (103, "redundant bonds to two switches; bonds in a table of their own", OPEN),
    (104, "two plain switches, no control of switches needed", OPEN),
    (105, "no single point of failure in the network", OPEN),
    (106, "Open vSwitch tried as another driver", OPEN),
    (107, "DHCP for hypervisors made from the internal API", OPEN),
    (108, "DHCP for guests from the same data", UP),
    (
        109,
        "image service: upload, fetch, list, download, delete, status",
        "tests/fleet/test_fleet_image_fetch.py::test_an_image_is_fetched_and_checked",
    ),
    (
        110,
        "image store of the cloud: registration, access per project",
        "tests/fleet/test_fleet_image.py::test_a_shared_image_is_used_by_chosen_projects_only",
    ),
    (
        111,
        "object storage behind images",
        "tests/fleet/test_fleet_image_s3.py::test_an_image_pushed_into_a_bucket_survives_a_cut_and_a_vm_runs_from_it",
    ),
    (
        112,
        "register an ISO",
        "tests/fleet/test_fleet_image.py::test_the_format_is_stated_and_checked",
    ),
    (
        113,
        "unregister an ISO",
        "tests/fleet/test_fleet_vm_verbs.py::test_an_iso_goes_in_and_out_while_it_runs_and_is_in_use_meanwhile",
    ),
    (114, "image catalogue with detached signatures", OPEN),
    (115, "a generic boot image that becomes special at first boot", OPEN),
    (116, "images tagged with rendezvous addresses, starter images per profile", OPEN),
    (117, "system images for installimage, for VMs and hosts", OPEN),
    (118, "first boot over PXE: TFTP service", OPEN),
    (119, "iPXE script service that picks kernel and initrd per host", OPEN),
    (120, "operators set the system version of each hypervisor", OPEN),
    (121, "a service hands that version to iPXE; TFTP carries the first stage only", OPEN),
    (122, "boot of a hypervisor: find configuration, take identity, bring up storage and agents", OPEN),
    (123, "key-value configuration per host before init", OPEN),
    (124, "installimage: configuration per MAC, status and progress", OPEN),
    (125, "rescue systems over PXE with one-time passwords", OPEN),
    (126, "boot parameter uuid:IP:secret reaches the instance", OPEN),
    (127, "one command makes the first cluster", UP),
    (128, "a scheduler chooses the host of each resource", OPEN),
    (129, "resources of all hosts are tracked", OPEN),
    (130, "basic allocator, by resources", CAPACITY),
    (131, "better allocator, by resources and usage", OPEN),
    (132, "best allocator, by resources, usage and trend", OPEN),
    (133, "rebalancing", OPEN),
    (134, "automatic rebalancing", OPEN),
    (135, "planning of the whole cluster's resources", OPEN),
    (136, "chain of filters: alive, network there, resources, random", OPEN),
    (137, "scheduler drivers chance, simple, zone", OPEN),
    (138, "heartbeat with a time to live and a resource report per host", OPEN),
    (139, "messages between all parts, to a role or a host, with replies", OPEN),
    (140, "simple wake-up queue: ids only, the content is fetched", OPEN),
    (141, "job records with state, progress, error, history", OPEN),
    (142, "workers listen by role, sometimes by host name", OPEN),
    (143, "a crashed worker's task is recovered", OPEN),
    (144, "discovery with exchangeable back-ends", OPEN),
    (145, "every component announces itself and can be found", OPEN),
    (146, "an agent on each hypervisor, between it and the internal API", UP),
    (147, "leader election", OPEN),
    (148, "operators declare 'keep N of these running'", OPEN),
    (149, "availability zones, realms, locations", OPEN),
    (150, "config cache: register a configuration beforehand, with domain and secret", OPEN),
    (151, "guest daemon: fetch by uuid and secret, apply, report", OPEN),
    (152, "cache update: address, parameters, status, trust key", OPEN),
    (153, "remove a configuration", OPEN),
    (154, "remove stale configurations and say how many", OPEN),
    (155, "hand out dynamic entries, first come first served", OPEN),
    (156, "explicit and dynamic entries side by side", OPEN),
    (157, "payload without a type (CDL, Puppet, any)", OPEN),
    (158, "federated caches with rendezvous in the cloud and no way in to the origin", OPEN),
    (159, "direct mode: the instance calls the origin's cache", OPEN),
    (160, "a list of config hosts per instance", OPEN),
    (161, "the origin reads an instance's IP, parameters and status", OPEN),
    (162, "a running instance's configuration can be updated", OPEN),
    (163, "the secret of each configuration is checked", OPEN),
    (164, "launch helper: start and register in one call", OPEN),
    (165, "parameters across instances, services with start scripts, reports", OPEN),
    (
        166,
        "EC2-style metadata and user data",
        "tests/real/test_vm_life.py::test_create_gives_a_guest_of_its_own_with_what_was_asked",
    ),
    (167, "in-guest agent: host info, services, network, power, heartbeat", OPEN),
    (168, "pluggable applicators of the payload: puppet, augeas, script", OPEN),
    (169, "add, delete and change users", OPEN),
    (170, "a user changes their own password", OPEN),
    (171, "administrators and users are told apart in the web interface", OPEN),
    (172, "resource pools for users; VMs are made and deleted inside them", OPEN),
    (173, "projects own resources; users belong to projects", FOREIGN),
    (174, "permissions by service, action, kind of object and owner", OPEN),
    (175, "roles per API command", ROLES),
    (176, "quotas per project", QUOTA),
    (177, "each VM has a customer, and customers see their own", FOREIGN),
    (178, "key pairs per user", UP),
    (179, "rate limits and lock-out", OPEN),
    (180, "command line with full access to every feature", OPEN),
    (181, "web interface for administrators: overview of the cluster, then the CLI's scope", OPEN),
    (182, "web interface for users: password, own VMs, creation inside the pool", OPEN),
    (183, "web: attach and detach an ISO", OPEN),
    (184, "web fit for phones", OPEN),
    (185, "VNC in the browser", OPEN),
    (186, "HTML views of the API's resources", OPEN),
    (187, "web for administrators: users and their pools", OPEN),
    (188, "command-line tools with text and JSON output", OPEN),
    (189, "API documentation, drawing of the tables, a target that makes a PDF", OPEN),
    (190, "every service is instrumented: statsd and an HTTP endpoint", OPEN),
    (191, "every VM is instrumented: cpu, disk, network", OPEN),
    (192, "statistics per VM, per IP, per export", OPEN),
    (193, "history and trend of usage, for the allocator", OPEN),
    (194, "where metrics go changes without a change of code", OPEN),
    (195, "VMs of a dead host are started elsewhere", OPEN),
    (196, "replicated database with automatic failover", OPEN),
    (197, "no single point of failure in what is deployed", OPEN),
    (198, "storage replication and takeover", OPEN),
    (199, "API servers without state, as many as wanted; the central API VM extra safe", OPEN),
    (200, "fencing: one writer is proven before a failover", OPEN),
    (201, "Puppet ENC endpoint", OPEN),
    (202, "Hiera look-up over HTTP", OPEN),
    (203, "Salt external pillar endpoint", OPEN),
    (204, "nodes are driven by configuration management, not by SSH", OPEN),
    (205, "configuration generated from the internal API whenever it changes", OPEN),
    (206, "Hiera look-up and ENC: the difference documented, both served", OPEN),
    (207, "facts from PuppetDB; registration with monitoring", OPEN),
    (208, "open source, with rules for contributing", FREE),
    (209, "three staged feature sets are tracked", OPEN),
    (210, "development with security in focus", OPEN),
    (211, "runs as separate processes on one or many machines", OPEN),
    (212, "no operation needs the database edited by hand", OPEN),
    (213, "shared storage and its devices do not depend on any hypervisor", OPEN),
    (214, "generator of fake nodes for development and scale", OPEN),
    (215, "Ceph tables brought up to date: cluster, pool, OSD, monitor, secret", OPEN),
    (216, "wake-ups for many nodes: no database connection and no LISTEN per node", OPEN),
    (217, "hypervisors' system versions lie in the object store", OPEN),
    (218, "users' web interface: each stage's full scope", OPEN),
    (219, "a guest writes only its address, status, parameters and config hosts", OPEN),
    (220, "launch with nothing passed through the cloud's API", OPEN),
    (221, "two bonds of two links, one link of each to each switch; own replication link", OPEN),
    (
        222,
        "storage has a size, one type and one cache option per device",
        "tests/real/test_volumes.py::test_a_volume_grows_and_changes_its_cache_mode_while_no_guest_has_it",
    ),
)


def document() -> str:
    """The whole file."""
    done = sum(test != OPEN for _, _, test in REQUIREMENTS)
    lines = [
        "# Requirements",
        "",
        "Written by `tools/requirements.py` from the table in it; do not edit here.",
        "",
        "A line is done when a test on real parts shows all of it: real PostgreSQL, real libvirt and QEMU, real",
        "bridges, a real guest. A line that works in part, or with fakes only, is open.",
        "",
        f"Done: {done} of {len(REQUIREMENTS)}.",
    ]
    for number, words, test in REQUIREMENTS:
        if number in GROUPS:
            lines += ["", f"## {GROUPS[number]}", "", "| # | what | shown by |", "|---|---|---|"]
        lines.append(f"| {number} | {words} | {OPEN if test == OPEN else f'`{test}`'} |")
    return "\n".join([*lines, ""])


def main() -> int:
    FILE.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
