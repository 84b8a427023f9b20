"""The answers for plain numbers are those of torch's symbolic shapes."""

import itertools

import pytest
from sgd.nodes.support.plain_shapes import ANSWERS
from torch.fx.experimental import symbolic_shapes

VALUES = (True, False, 0, 1, 3, (), (2, 3), [2, 3], (2, 4), (2,), 1.5, None)


@pytest.mark.filterwarnings("ignore:guard_size_oblivious")
@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_an_answer_is_that_of_torch(name):
    theirs = getattr(symbolic_shapes, name, None)
    if theirs is None:
        pytest.skip(f"this torch has no {name}")
    answered = 0
    for count in (0, 1, 2, 3):
        for given in itertools.product(VALUES, repeat=count):
            ours = ANSWERS[name](*given)
            if ours is not NotImplemented:
                found = theirs(*given)
                assert (type(ours), ours) == (type(found), found), given
                answered += 1
    assert answered
