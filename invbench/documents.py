"""YAML documents that remember where everything stands, for messages with file, line and column."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from invbench.errors import UserError

Place = tuple[str | int, ...]

#: Words that YAML 1.1 reads as booleans although most people who write them mean the word.
_WORDS = {"yes", "no", "on", "off", "y", "n"}


@dataclass
class Document:
    """Plain data of a YAML file, with the mistakes found in it so far.

    Attributes:
        name: of the file, as messages show it.
        text: of the file.
        data: plain data.
    """

    name: str
    text: str
    data: Any = None
    _marks: dict[Place, tuple[int, int]] = field(default_factory=dict)
    _mistakes: list[tuple[tuple[int, int], str]] = field(default_factory=list)

    def mistake(self, place: Place, message: str) -> None:
        """Note a mistake at a place such as `("methods", 1, "adam", "lr")`."""
        mark = next(self._marks[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self._marks)
        self._mistakes.append((mark, f"{show(place)}: {message}" if place else message))

    @property
    def mistaken(self) -> bool:
        """Whether any mistake has been noted."""
        return bool(self._mistakes)

    def check(self) -> None:
        """Raise one UserError with a line for every mistake, in the order of the file."""
        if self._mistakes:
            lines = dict.fromkeys(
                f"{self.name}:{line}:{column}: {text}"
                for (line, column), text in sorted(self._mistakes, key=lambda mistake: mistake[0])
            )
            raise UserError("\n".join(lines))

    def _walk(self, node: yaml.Node, place: Place) -> Any:
        self._marks[place] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._walk_mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._walk(item, (*place, i)) for i, item in enumerate(node.value)]
        if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() in _WORDS:
            self.mistake(
                place, f"YAML reads {node.value} as a boolean; write true or false, or quote the word"
            )
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.mistake(place, f"cannot be read: {str(error).splitlines()[0]}")
            return None

    def _walk_mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._walk(key_node, (*place, "")) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, Hashable) or not isinstance(key, str | int | float):
                self.mistake((*place, ""), "a key must be a word")
                continue
            key = str(key)
            self._marks[*place, key] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in result:
                self.mistake((*place, key), "is given twice; the earlier value would be lost silently")
            mark = self._marks[*place, key]
            result[key] = self._walk(value_node, (*place, key))
            self._marks[*place, key] = mark
        return result


def parse(text: str, name: str) -> Document:
    """Parse YAML text.

    Raises:
        UserError: the text is no YAML; with file, line and column.
    """
    document = Document(name=name, text=text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{where}: malformed YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: malformed YAML: {str(error).splitlines()[0]}") from None
    document._marks[()] = (1, 1)
    document.data = document._walk(node, ()) if node is not None else None
    return document


def read(path: Path) -> Document:
    """Read a YAML file; raises UserError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}") from None
    return parse(text, path.name)


def override(document: Document, settings: Iterable[str]) -> None:
    """Apply `key=value` settings, such as `budget.iterations=100` or `methods[1].adam.lr=0.1`.

    The text becomes that of the changed data, without comments, so that what is kept is what was run.

    Raises:
        UserError: a setting is malformed or names no place.
    """
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise UserError(f"--set {setting}: write it as key=value, such as budget.iterations=100")
        place: list[str | int] = []
        for part in key.replace("[", ".[").split("."):
            index = part[1:-1]
            place.append(int(index) if part.startswith("[") and index.isdigit() else part)
        target = document.data
        try:
            for step in place[:-1]:
                target = target[step]
            target[place[-1]] = parse(value, f"--set {key}").data
        except (KeyError, IndexError, TypeError):
            raise UserError(f"--set {setting}: the study has no place '{key}'") from None
        document.text = yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True, width=110)


def show(place: Place) -> str:
    """A place as people write it.

    Example:
        >>> show(("methods", 1, "adam", "lr"))
        'methods[1].adam.lr'
    """
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".")
