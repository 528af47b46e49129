"""The methods of the experiment. No model is run."""

import pytest

from experiments import methods
from experiments.methods import METHODS
from tests.support.methods import METHODS as README


@pytest.mark.parametrize("name", METHODS)
def test_arguments_can_be_made(name):
    rollout, loss = methods.arguments(METHODS[name], 4, 384, 31)
    assert rollout.get_config() is not None and loss.get_config() is not None


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.readme]
)
def test_methods_of_the_readme_have_its_arguments(name):
    method, readme = METHODS[name], README[METHODS[name].readme]
    assert method.rollout == readme.rollout
    assert f"loss={method.loss}" == readme.compile


def test_skd_of_the_readme_is_one_of_the_values_of_k():
    readme = README["Speculative KD (SKD)"]
    assert METHODS["skd_25"].rollout == readme.rollout
    assert f"loss={METHODS['skd_25'].loss}" == readme.compile
