"""`make destroy`: takes away what an installation made on this host, and nothing else.

It needs no running fabric and works on a half installation: VMs go with everything else. Each thing must prove that
it is ours: by the journal, by its owner's mark, by its name. Invariant: the state directory, with journal and owner
file in it, goes last, so that an interrupted run is simply repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from nubila.bootstrap import contexts, packages, processes, show, units, users, world
from nubila.bootstrap.down import stop_supervisor
from nubila.bootstrap.install import open_install
from nubila.bootstrap.journal import Journal
from nubila.config import Settings


def destroy(name: str, clone: Path, *, packages: bool = False, adopt: bool = False) -> int:
    install = open_install(name, clone, adopt=adopt, by_name=True)
    settings = install.settings if install else Settings(name=name)
    if install is None and settings.var_dir.exists() and any(settings.var_dir.iterdir()):
        print(f"{settings.var_dir} holds no installation that is known; it is left alone.")
    journal = Journal(settings.var_dir)
    done = [line for act in STEPS if (line := act(settings, journal))]
    _remember_packages(journal, clone)
    if install is not None:
        done.append(_state(settings))
    done += _build(name, clone)
    if packages:
        done += _packages(clone)  # last: Python itself may be one of them
    for line in done:
        print(f"  {line}", flush=True)
    print(f"Nubila '{name}' is gone." if done else f"There is nothing of an installation '{name}' here: nothing to do.")
    return 0


def _services(settings: Settings, journal: Journal) -> str:
    return "agent, control plane and database stopped" if stop_supervisor(settings) else ""


def _unit(settings: Settings, journal: Journal) -> str:
    return units.remove(settings)


def _processes(settings: Settings, journal: Journal) -> str:
    """libvirtd before QEMU, so that nothing is started again."""
    found = world.running(settings)
    daemons = [p for p in found if p.program in ("libvirtd", "virtlogd")]
    processes.stop(daemons, patience_s=5)
    processes.stop([p for p in found if p not in daemons], patience_s=3)
    late = world.running(settings)  # started while we looked
    processes.stop(late, patience_s=3)
    return f"{len(found) + len(late)} processes ended: {_names(found + late)}" if found or late else ""


def _links(settings: Settings, journal: Journal) -> str:
    found = world.links(settings)
    for link in found:
        world.remove_link(link)
    return f"interfaces removed: {', '.join(found)}" if found else ""


def _tables(settings: Settings, journal: Journal) -> str:
    found = world.tables(settings)
    for family, name in found:
        world.remove_table(family, name)
    return f"nft tables removed: {', '.join(f'{f} {n}' for f, n in found)}" if found else ""


def _mounts(settings: Settings, journal: Journal) -> str:
    found = world.mounts(settings)
    for point in found:
        world.unmount(point)
    return f"unmounted: {', '.join(found)}" if found else ""


def _shared(settings: Settings, journal: Journal) -> str:
    """What other installations on this host use too goes back with the last of them."""
    found, points, said = world.changed_settings(settings), world.mount_points(settings), []
    if found and (heir := world.hand_over_settings(settings)):
        said.append(f"kernel settings are left to the installation in {heir}")
    elif found:
        for path, before in found.items():
            path.write_text(before)
        said.append(f"kernel settings given back: {', '.join(p.name for p in found)}")
    if points and (heir := world.hand_over_mounts(settings)):
        said.append(f"libvirt's directories are left to the installation in {heir}")
    elif made := [p for p in points if p.is_dir() and not any(p.iterdir())]:
        for directory in made:
            directory.rmdir()
        said.append(f"directories removed: {', '.join(map(str, made))}")
    return "; ".join(said)


def _users(settings: Settings, journal: Journal) -> str:
    removed = users.remove(settings)
    return f"system users removed: {', '.join(removed)}" if removed else ""


def _run_dir(settings: Settings, journal: Journal) -> str:
    if not settings.run_dir.is_dir() or not journal.has("directory", str(settings.var_dir)):
        return ""
    shutil.rmtree(settings.run_dir)
    return f"{settings.run_dir} removed"


def _guards(settings: Settings, journal: Journal) -> str:
    packages.remove_guards()
    return ""


# In this order: first what could make things again.
STEPS: tuple[Callable[[Settings, Journal], str], ...] = (
    _services, _unit, _processes, _links, _tables, _mounts, _shared, _guards, _users, _run_dir,
)  # fmt: skip


def _remember_packages(journal: Journal, clone: Path) -> None:
    """Into the clone's record, so that they can be removed later, when the journal is gone."""
    record = clone / "build" / "packages"
    names = {e.what for e in journal.of("package")}
    known = set(record.read_text().split()) if record.exists() else set()
    if names - known:
        record.write_text("".join(f"{n}\n" for n in sorted(names | known)))


def _packages(clone: Path) -> list[str]:
    """Those that are on record as installed by this clone's commands."""
    record = clone / "build" / "packages"
    names = set(record.read_text().split()) if record.exists() else set()
    here = sorted(names - set(packages.missing({n: "" for n in names}))) if names else []
    if not here:
        return []
    packages.remove(here)
    record.unlink(missing_ok=True)
    return [f"{len(here)} Debian packages removed"]


def _state(settings: Settings) -> str:
    """The state directory; its owner file goes last."""
    for path in settings.var_dir.iterdir():
        if path.name not in ("owner.json", "journal.jsonl", "nubila.toml"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(settings.var_dir)
    return f"{settings.var_dir} removed"


def _build(name: str, clone: Path) -> list[str]:
    """What tells people of an installation that is gone; the rest of build/ is the clone's or its other installations'."""
    build, done = clone / "build", []
    up, file = build / "up.json", build / contexts.FILE
    if up.exists() and f'"name": "{name}"' in up.read_text():
        up.unlink()
        done.append("build/up.json removed")
    held = contexts.read(file)
    left = contexts.without(held, name, Settings(name=name).ca_file)
    if len(left["contexts"]) < len(held.get("contexts") or ()):
        (build / "known_hosts").unlink(missing_ok=True)  # the next guests have the same addresses and other keys
        if left["contexts"]:
            show.write(clone, file, left)
        else:
            file.unlink()
        done.append(f"context '{name}' taken out of build/{contexts.FILE}")
    return done


def _names(found: list[processes.Process]) -> str:
    return ", ".join(sorted({p.program for p in found}))
