"""Transcripts of sessions: read, compared version by version, learnt and written back."""

from __future__ import annotations

import pytest

from tests.transcripts import Step, answer, fits, parse

TEXT = """\
# A remark.
$ kubectl get domains
  NAME
@ 1.20 1.27
? 1
  ! error

$ kubectl get nodes
"""


def written(steps: list[Step]) -> str:
    return "\n".join(line for step in steps for line in step.lines()) + "\n"


def test_what_is_read_is_written_back() -> None:
    steps = parse(TEXT)
    assert [step.command for step in steps] == ["kubectl get domains", "kubectl get nodes"]
    assert steps[0].expected("1.33") == ("  NAME",)
    assert steps[0].expected("1.20") == steps[0].expected("1.27") == ("? 1", "  ! error")
    assert steps[1].expected("1.20") == ()
    assert written(steps) == TEXT


@pytest.mark.parametrize("text", ["  output of nothing\n", "$ x\nno output\n", "@ 1.2\n"])
def test_a_line_that_belongs_nowhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse(text)


def test_versions_that_agree_with_the_newest_are_not_written_apart() -> None:
    step = Step("x")
    step.learn("1.33", ("  a",), newest=True)
    for version, seen in (("1.27", "  b"), ("1.9", "  b"), ("1.30", "  a")):
        step.learn(version, (seen,), newest=False)
    assert step.lines() == ["$ x", "  a", "@ 1.9 1.27", "  b"]
    step.learn("1.9", ("  a",), newest=False)
    assert step.lines() == ["$ x", "  a", "@ 1.27", "  b"]


def test_what_differs_from_run_to_run_is_not_compared() -> None:
    table = "NAME    AGE\nweb-1   {}\n\n"
    assert answer(0, table.format("5s"), "") == answer(0, table.format("2m10s"), "")
    assert answer(0, table.format("5s"), "")[1] == "  web-1   <age>"
    uid = "  uid: 11111111-2222-3333-4444-55555555555{}\n"
    assert answer(0, uid.format(1), "") == answer(0, uid.format(2), "")
    assert answer(0, "memory: 64Mi", "") != answer(0, "memory: 65Mi", "")
    assert answer(1, "", "x") == ("? 1", "  ! x")


@pytest.mark.parametrize(
    ("expected", "seen", "fit"),
    [
        ("a b", "a b", True),
        ("a b", "a c", False),
        ("a ... d", "a b c d", True),
        ("a ... d", "a d", True),
        ("a ... a", "a", False),
        ("a ... d", "b c d", False),
        ("a ... d", "a b", False),
        ("a ... c ... e", "a b c d e", True),
        ("a ... c d ... e", "a c b d e", False),
        ("...", "", True),
        ("a ...", "a b c", True),
    ],
)
def test_three_dots_stand_for_any_lines(expected: str, seen: str, fit: bool) -> None:
    lines = [tuple(f"  {word}" for word in text.split()) for text in (expected, seen)]
    assert fits(lines[0], lines[1]) is fit


def test_what_may_be_anything_is_not_learnt() -> None:
    step = Step("kubectl diff", common=("  a",), others={"1.20": ("  a", "  ...")})
    step.learn("1.20", ("  a", "  b"), newest=False)
    assert step.others == {"1.20": ("  a", "  ...")}
    step.learn("1.20", ("  c",), newest=False)
    assert step.others == {"1.20": ("  c",)}
