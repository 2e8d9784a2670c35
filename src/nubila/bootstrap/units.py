"""The systemd unit of an installation: where systemd is PID 1, it starts the supervisor at boot and after a failure.

Called by `make up`, `down` and `destroy`. A machine without systemd gets none of it: there the supervisor is started by
`make up` alone. Invariant: a unit file is ours only with our mark in it; what another wrote under that name stays.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from nubila.bootstrap.install import Install, environment
from nubila.bootstrap.journal import Entry
from nubila.config import Settings

DIRECTORY = Path("/etc/systemd/system")
RUNS = Path("/run/systemd/system")  # there exactly while systemd is PID 1
MARK = "# Written by nubila for the installation {name}; 'make destroy' removes it.\n"
STOP_WITHIN_S = 160  # all children's patience together, and a little

TEXT = """\
{mark}
[Unit]
Description=Nubila installation {name}
Documentation=file://{var_dir}/owner.json
After=network-online.target nftables.service
Wants=network-online.target
RequiresMountsFor={var_dir}

[Service]
Type=simple
ExecStart={python} -m nubila supervise
WorkingDirectory=/
{environment}
# Only the supervisor is told to stop, and it stops the others: libvirtd, QEMU and dnsmasq outlive it.
KillMode=process
TimeoutStopSec={stop_s}
Restart=on-failure
RestartSec=2
# A guest that the kernel ends for lack of memory is no reason to end the others.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
StandardOutput=append:{log}
StandardError=append:{log}

[Install]
WantedBy=multi-user.target
"""


class UnitFailure(Exception):
    """systemd refused; the text is its own."""


def name_of(settings: Settings) -> str:
    return "nubila.service" if settings.name == "nubila" else f"nubila-{settings.name}.service"


def wanted() -> bool:
    """Whether this machine is one where units do something."""
    return RUNS.is_dir()


def text(settings: Settings, python: Path) -> str:
    """The unit file. Its values come from settings that were checked; '%' and quotes are systemd's, so they are escaped."""
    lines = [f'Environment="{_escaped(k)}={_escaped(v)}"' for k, v in environment(settings, "supervisor").items()]
    return TEXT.format(
        mark=MARK.format(name=settings.name).rstrip(),
        name=settings.name,
        var_dir=settings.var_dir,
        python=python,
        environment="\n".join(lines),
        stop_s=STOP_WITHIN_S,
        log=settings.var_dir / "log" / "supervisor.log",
    )


def ensure(install: Install) -> str:
    """Have the unit installed and enabled; says what was done, '' for nothing."""
    if not wanted():
        return ""
    path = DIRECTORY / name_of(install.settings)
    new = text(install.settings, install.python)
    now = path.read_text() if path.exists() else ""
    if now and not _ours(install.settings, now):
        raise UnitFailure(
            f"{path} exists and is not Nubila's. Move it away, or choose another name: 'make up NAME=other'."
        )
    if now != new:
        install.journal.add(Entry("file", str(path)))
        path.with_suffix(".new").write_text(new)
        path.with_suffix(".new").rename(path)
        _systemctl("daemon-reload")
    if _systemctl("is-enabled", "--quiet", path.name, may_fail=True) != 0:
        _systemctl("enable", "--quiet", path.name)
        return f"{path.name} {'installed' if now != new else 'enabled'}"
    return f"{path.name} refreshed" if now != new else ""


def start(settings: Settings) -> None:
    _systemctl("reset-failed", name_of(settings), may_fail=True)
    _systemctl("start", name_of(settings))


def disable(settings: Settings) -> None:
    """It is down, and stays so after a boot of the machine, until the next `make up`."""
    path = DIRECTORY / name_of(settings)
    if wanted() and path.exists() and _ours(settings, path.read_text()):
        _systemctl("disable", "--quiet", path.name)


def remove(settings: Settings) -> str:
    path = DIRECTORY / name_of(settings)
    if not path.is_file() or not _ours(settings, path.read_text()):
        return ""
    if wanted():
        _systemctl("disable", "--quiet", path.name, may_fail=True)
    path.unlink()
    if wanted():
        _systemctl("daemon-reload")
    return f"{path} removed"


def _ours(settings: Settings, content: str) -> bool:
    return content.startswith(MARK.format(name=settings.name))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _systemctl(*words: str, may_fail: bool = False) -> int:
    run = subprocess.run(
        ("systemctl", *words), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=180
    )
    if run.returncode != 0 and not may_fail:
        raise UnitFailure(f"systemctl {' '.join(words)} failed: {(run.stderr or run.stdout).strip()[-400:]}")
    return run.returncode
