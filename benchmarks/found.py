"""Benchmarks of everything that is found, one class a name.

asv addresses parameters by their position, so that with the names as parameters a commit which has one solver
more would file its figures under wrong names. A name within the name of the benchmark cannot slip. What a
commit does not have fails there, and nothing else does.
"""

from collections.abc import Iterable


def one_class_each(base: type, names: Iterable[str], suffix: str = "") -> dict[str, type]:
    """A subclass of `base` for every name, called so, with it as attribute `name`: for `globals()`.

    asv passes over `base` itself where its own name starts with an underscore.
    """
    return {name + suffix: type(name + suffix, (base,), {"name": name}) for name in sorted(names)}
