from pathlib import Path

import pytest
import torch

from invbench import cache


def test_what_is_kept_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVBENCH_CACHE", str(tmp_path / "deep" / "cache"))
    tensors = {"w": torch.arange(6.0).view(2, 3).T, "n": torch.tensor(3)}
    assert cache.fetch("a/b") is None
    cache.keep("a/b", tensors, {"seconds": "1.5"})
    found = cache.fetch("a/b")
    assert found is not None
    assert found[1] == {"seconds": "1.5"}
    assert all(torch.equal(found[0][name], tensors[name]) for name in tensors)


def test_a_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    cache.write(path, {"w": torch.zeros(100)}, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert cache.read(path) is None
    path.write_bytes(content[:50])
    assert cache.read(path) is None


def test_digest_sees_names_shapes_types_and_values() -> None:
    base = {"w": torch.zeros(4)}
    others = [
        {"v": torch.zeros(4)},
        {"w": torch.zeros(2, 2)},
        {"w": torch.zeros(4).double()},
        {"w": torch.ones(4)},
    ]
    assert len({cache.digest(t) for t in [base, *others]}) == 5
    assert cache.digest({"w": torch.zeros(4)}) == cache.digest(base)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    (tmp_path / "w.safetensors" / "content").touch()
    with pytest.raises(OSError, match=r"w\.safetensors"):
        cache.write(tmp_path / "w.safetensors", {"w": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    cache.write(tmp_path / "w", {"all": whole, "also": whole, "part": whole[2:4]}, {})
    found = cache.read(tmp_path / "w")
    assert found is not None
    assert torch.equal(found[0]["part"], whole[2:4])
