import pytest

from invbench import documents
from invbench.errors import UserError


def mistakes(text: str) -> str:
    document = documents.parse(text, "study.yaml")
    with pytest.raises(UserError) as caught:
        document.check()
    return str(caught.value)


def test_plain_data_equals_what_yaml_reads() -> None:
    import yaml

    text = "a: [1, 2.5, x, null, true]\nb: {c: '1', d: 1.0e-3, e: 2026-01-02}\n"
    assert documents.parse(text, "f").data == yaml.safe_load(text)


def test_duplicate_key_is_a_mistake_with_its_place() -> None:
    assert mistakes("a:\n  b: 1\n  b: 2\n").startswith("study.yaml:3:3: a.b: is given twice")


@pytest.mark.parametrize("word", ["no", "Yes", "on", "OFF"])
def test_words_that_yaml_takes_for_booleans(word: str) -> None:
    assert "as a boolean" in mistakes(f"a:\n- x: {word}\n")


def test_true_and_quoted_words_are_fine() -> None:
    document = documents.parse("a: true\nb: 'no'\n", "f")
    document.check()
    assert document.data == {"a": True, "b": "no"}


def test_malformed_text_tells_line_and_column() -> None:
    with pytest.raises(UserError, match=r"study.yaml:2:\d+: malformed YAML"):
        documents.parse("a: [1, 2\nb: 3", "study.yaml")


def test_mistakes_come_in_the_order_of_the_file_at_the_deepest_known_place() -> None:
    document = documents.parse("a: 1\nb:\n  c: [1, 2]\n", "f.yaml")
    document.mistake(("b", "c", 1), "second")
    document.mistake(("b", "c", 1, "deep"), "third")
    document.mistake(("a",), "first")
    with pytest.raises(UserError) as caught:
        document.check()
    assert str(caught.value).splitlines() == [
        "f.yaml:1:1: a: first",
        "f.yaml:3:10: b.c[1]: second",
        "f.yaml:3:10: b.c[1].deep: third",
    ]


def test_override_changes_a_place() -> None:
    document = documents.parse("budget: {iterations: 5}\nmethods:\n- adam: {lr: 1}\n", "f")
    documents.override(document, ["budget.iterations=7", "methods[0].adam.lr=[0.1, 0.2]", "new=1"])
    assert document.data == {"budget": {"iterations": 7}, "methods": [{"adam": {"lr": [0.1, 0.2]}}], "new": 1}
    assert documents.parse(document.text, "g").data == document.data


@pytest.mark.parametrize("setting", ["budget", "=1", "methods[3].adam=1", "budget.a.b=1"])
def test_override_refuses_what_has_no_place(setting: str) -> None:
    document = documents.parse("budget: {iterations: 5}\nmethods: [adam]\n", "f")
    with pytest.raises(UserError, match="--set"):
        documents.override(document, [setting])


def test_unreadable_file_is_a_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="cannot read"):
        documents.read(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no UTF-8"):
        documents.read(tmp_path / "binary.yaml")
