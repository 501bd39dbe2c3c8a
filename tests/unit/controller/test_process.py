"""What the process says about its health."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from incumbent.controller.process import Operator

BAD = "the watch delivers nothing"


def operator(*elections):
    """An operator with the bucket `mine`, and elections: a bucket and its trouble each."""
    made = object.__new__(Operator)
    campaigners = {
        number: SimpleNamespace(
            resource=SimpleNamespace(bucket=name),
            view=SimpleNamespace(bucket_trouble=trouble, barred=False),
        )
        for number, (name, trouble) in enumerate(elections)
    }
    made.registry = SimpleNamespace(campaigners=campaigners)
    made.health = SimpleNamespace(problems=dict)
    made.history_writer = None
    made._settings = SimpleNamespace(bucket="mine")
    return made


@pytest.mark.parametrize(
    ("elections", "ready", "noted"),
    (
        ((), True, ()),
        ((("mine", ""),), True, ()),
        ((("mine", BAD),), False, ()),
        ((("mine", BAD), ("mine", "")), True, ()),
        ((("theirs", BAD),), True, ("theirs",)),
        ((("mine", BAD), ("theirs", "")), True, ("mine",)),
        ((("mine", BAD), ("theirs", BAD)), False, ("theirs",)),
    ),
)
def test_only_the_own_bucket_makes_the_operator_unready_and_only_if_none_works(
    elections, ready, noted
):
    """One bad bucket of one tenant must not take the operator from those whose elections work."""
    process = operator(*elections)
    assert process.problems() == ({} if ready else {"bucket mine": BAD})
    assert process.notes() == {f"bucket {name}": BAD for name in noted}
