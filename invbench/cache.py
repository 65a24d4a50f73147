"""The user's cache of what was trained: safetensors files, written whole or not at all, verified on load."""

import os
from collections.abc import Mapping
from hashlib import sha256
from importlib import resources
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

About = dict[str, str]
_DIGEST = "digest"


def folder() -> Path:
    """Where trained tensors are kept: $INVBENCH_CACHE, or the platform's cache folder of the user."""
    named = os.environ.get("INVBENCH_CACHE")
    if named:
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("invbench")


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors with plain text about them; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: _own_copy(tensor) for name, tensor in tensors.items()}
    content = save(whole, metadata={**about, _DIGEST: digest(whole)})
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        partial = Path(file.name)
        try:
            file.write(content)
            file.close()
            partial.chmod(0o644)
            partial.replace(path)
        except OSError:
            partial.unlink()
            raise


def read(path: Path) -> tuple[dict[str, Tensor], About] | None:
    """Read what `write` wrote; None when the file is missing or is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None
    return (tensors, about) if about.pop(_DIGEST, None) == digest(tensors) else None


def keep(key: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bool:
    """Put tensors into the cache under a key; False where it cannot be written, which loses nothing."""
    try:
        write(folder() / f"{key}.safetensors", tensors, about)
    except OSError:
        return False
    return True


def fetch(key: str) -> tuple[dict[str, Tensor], About] | None:
    """What the cache holds under a key, or None."""
    return read(folder() / f"{key}.safetensors")


def learned(kind: str, key: str) -> tuple[dict[str, Tensor], About, str] | None:
    """What an earlier training has made, with where it comes from: the user's own counts more than ours.

    Args:
        kind: folder of the cache, such as `networks`.
        key: identity of the training.
    """
    kept = fetch(f"{kind}/{key}")
    if kept is not None:
        return *kept, "trained before on this machine"
    shipped = read(Path(str(resources.files("invbench"))) / "weights" / f"{key}.safetensors")
    return None if shipped is None else (*shipped, "shipped with the package")


def keep_learned(kind: str, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Put what a training has made into the cache; where it comes from, in words."""
    kept = keep(f"{kind}/{key}", tensors, about)
    return "trained now" if kept else f"trained now (the cache at {folder()} cannot be written)"


def _own_copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU with memory of its own: the format refuses tensors that share theirs."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    found = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return found.hexdigest()
