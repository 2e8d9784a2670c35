"""`make up`: from whatever is there to a running fabric with a VM, in steps that each look first, then act if needed.

Called after the preflight found nothing wrong. Invariant: a second run changes nothing, and an upgrade touches no VM:
it stops and starts the control plane and the agent only when the code changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from nubila.bootstrap import fabric, guest, services, show, standing
from nubila.bootstrap.install import Install, claim
from nubila.bootstrap.join import joined
from nubila.bootstrap.say import Progress
from nubila.client.transport import ConnectionFailed, Transport

REPAIRED_WITHIN_S = 60.0


def up(name: str, clone: Path, subnet4: str, given: Mapping[str, str | int | bool], *, adopt: bool) -> int:
    """`given`: the settings that it is begun with."""
    print(f"Nubila '{name}' on this machine:", flush=True)
    install, begun = claim(name, clone, subnet4, given, adopt=adopt)
    install.build.mkdir(exist_ok=True)
    settings, progress = install.settings, Progress()
    progress.changed += begun
    if "control" not in settings.parts:
        return joined(install, progress, begun=begun)
    step = progress.step
    with_vm = settings.drivers == "real" and "node" in settings.parts
    before = standing.look(settings) if standing.was_up(settings) else None
    services.prepare(install, step, begun=begun)
    step("database, control plane, agent", lambda: services.ensure(install, lambda: lacking(install)))
    step("guest image", lambda: guest.image(install))
    shown = fabric.establish(install, step, with_vm=with_vm)
    if with_vm and before is not None:
        step("what was taken away", lambda: _repaired(install, before))
    show.remember(install, shown)
    print(show.text(install, shown))
    print(progress.end("Up", "all was up already"))
    return 0


def _repaired(install: Install, before: standing.Standing) -> str:
    """Wait until all that running VMs need stands, and name what did not at first. What does not come back is told,
    and left to its VM's own reason."""
    settings, deadline = install.settings, time.monotonic() + REPAIRED_WITHIN_S
    need = standing.needed(settings, *fabric.wished(install))
    while (missing := need - (now := standing.look(settings))) and time.monotonic() < deadline:
        time.sleep(0.25)
    back = standing.repaired(before, now, need)
    parts = [f"repaired: {', '.join(back)}"] if back else []
    if missing:
        parts.append(f"not back after {REPAIRED_WITHIN_S:.0f} s: {', '.join(sorted(missing))}; see 'nubila vm list'")
    return "; ".join(parts)


def lacking(install: Install) -> dict[str, str]:
    """Listeners that do not say yet that they reach the database."""
    settings = install.settings
    urls = (settings.user_url, settings.operator_url, settings.internal_url)
    return {url: why for url in urls if (why := _not_ready(install, url))}


def _not_ready(install: Install, url: str) -> str:
    """Why not; '' when it is."""
    if not install.settings.ca_file.exists():
        return f"{url}: there is no CA yet"
    transport = Transport(url, ca=install.settings.ca_file, timeout_s=3.0)
    try:
        status = transport.request("GET", "/readyz").status
        return "" if status == 200 else f"{url}: /readyz answers {status}"
    except ConnectionFailed as e:
        return str(e)
    except OSError as e:
        return f"{url}: {e}"
    finally:
        transport.close()
