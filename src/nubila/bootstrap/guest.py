"""The small guest image, built in the clone, and its kernel where the agent boots it to see whether KVM works here.

Called by `make up` and `make join`.
"""

from __future__ import annotations

import shutil
import subprocess

from nubila.bootstrap.install import Install
from nubila.bootstrap.waiting import NotComing


def image(install: Install) -> str:
    """Have build/guest; says what was done, '' for nothing."""
    run = subprocess.run(
        (install.clone / "guest" / "build.sh", install.build / "guest"),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if run.returncode != 0:
        raise NotComing(f"the guest image could not be built: {run.stderr.strip()[-800:]}")
    return "" if "unchanged" in run.stdout else "built"


def probe_files(install: Install) -> None:
    """What the agent boots to see whether KVM works here: /dev/kvm alone does not tell."""
    directory = install.settings.node_dir / "kvm"
    directory.mkdir(mode=0o711, exist_ok=True)
    for name in ("vmlinuz", "initrd.gz"):
        file = install.build / "guest" / name
        if file.exists() and not (directory / name).exists():
            shutil.copyfile(file, directory / name)
