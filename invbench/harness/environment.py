"""Where and with what a study ran."""

import os
import platform
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from invbench import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-image", "pandas")


def environment(device: str) -> dict[str, Any]:
    """Machine, versions and threads, as the report shows them."""
    return {
        "invbench": source_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


@cache
def source_version() -> str:
    """Version of the package with a hash of its source, so that results tell which code made them."""
    digest = sha256()
    for name in ("invbench", "invbench_solvers"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:8]}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
