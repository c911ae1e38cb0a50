import pytest

from detector_worker.core.located_yaml import read_yaml


def value_of(text: str) -> object:
    root, problems = read_yaml(text)
    assert root is not None, problems
    assert problems == []
    return root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 5", 5),
        ("a: -5", -5),
        ("a: 0.5", 0.5),
        ("a: 1e3", 1000.0),
        ("a: true", True),
        ("a: False", False),
        ("a: null", None),
        ("a: ~", None),
        ("a:", None),
        ("a: [1, [x, 2]]", [1, ["x", 2]]),
        ("a: no", "no"),
        ("a: on", "on"),
        ("a: 12:30", "12:30"),
        ("a: 2026-01-31", "2026-01-31"),
        ("a: 0x10", "0x10"),
        ("a: 007", "007"),
        ("a: '5'", "5"),
        ('a: "true"', "true"),
        ("a: |\n  5", "5"),
        ("a: " + "9" * 5000, "9" * 5000),
        ('{"a": "\\u00e9\\n"}', "é\n"),
        ('{\n\t"a": 1}', 1),
    ],
)
def test_plain_words_mean_what_they_mean_in_json(text: str, value: object) -> None:
    assert value_of(text) == {"a": value}
    assert type(value_of(text)["a"]) is type(value)  # type: ignore[index] # the mapping that was just compared


def test_every_key_knows_its_line() -> None:
    root, _ = read_yaml("# a comment\na:\n  b: 1\n  c:\n    - 2\n")

    assert root is not None
    assert isinstance(root.value, dict)
    inner = root.value["a"].value
    assert isinstance(inner, dict)
    assert [root.value["a"].line, inner["b"].line, inner["c"].line] == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: &x 1\nb: *x", 1, "Anchors"),
        ("a: 1\nb: *x", 2, "Anchors"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", 1, "Anchors"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", 2, "Tags"),
        ("!!binary a: 1", 1, "Tags"),
        ("? [1, 2]\n: 3", 1, "key that is no text"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("[" * 100_000, 1, "Nested"),
        ("\n".join("  " * depth + "a:" for depth in range(100)), 9, "Nested"),
        ("[" + "1," * 401_000 + "1]", 1, "Too many"),
        ("a: 1\n b: 2", 2, "no YAML"),
        ("a: 'open", 1, "no YAML"),
        ("a: 1\nb: @x", 2, "no YAML"),
        ("a: \x07", None, "control character"),
    ],
)
def test_what_cannot_be_read_is_one_problem_with_its_line(text: str, line: int | None, says: str) -> None:
    root, problems = read_yaml(text)

    assert root is None
    assert [(problem.line, says in problem.what) for problem in problems] == [(line, True)]


def test_a_key_that_stands_twice_is_told_and_the_first_one_counts() -> None:
    root, problems = read_yaml("a:\n  b: 1\n  c: 2\n  b: 3\na: 4\n")

    assert root is not None
    assert root.plain() == {"a": {"b": 1, "c": 2}}
    assert [(problem.line, problem.path) for problem in problems] == [(4, "a.b"), (5, "a")]


def test_no_text_of_a_node_or_a_problem_shows_a_value() -> None:
    root, problems = read_yaml("a: Kanarienvogel\na: Kanarienvogel\nrtsp://u:Kanarienvogel@h: {b: 1, b: 1}\n")

    assert len(problems) == 2
    assert "Kanarienvogel" not in f"{root!r} {problems!r}"
