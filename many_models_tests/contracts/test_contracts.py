"""The guard of the contracts."""

from __future__ import annotations

import pytest

from many_models_tests.contracts import Contract


class Port(Contract):
    def test_it_works(self):
        pass


def test_a_subclass_that_replaces_a_contract_test_cannot_be_made():
    with pytest.raises(TypeError, match="test_it_works"):

        class Lenient(Port):
            def test_it_works(self):
                pass


def test_a_subclass_that_removes_a_contract_test_cannot_be_made():
    with pytest.raises(TypeError, match="test_it_works"):

        class Lenient(Port):
            test_it_works = None


def test_a_mixin_that_shadows_a_contract_test_cannot_be_made():
    class Mixin:
        def test_it_works(self):
            pass

    with pytest.raises(TypeError, match="test_it_works"):

        class Lenient(Mixin, Port):
            pass


@pytest.mark.parametrize("switch", [{"__test__": False}, {"pytestmark": pytest.mark.skip}])
def test_a_subclass_that_switches_the_contract_off_cannot_be_made(switch):
    with pytest.raises(TypeError, match="switch"):
        type("Lenient", (Port,), switch)


def test_a_subclass_may_add_tests():
    class Stricter(Port):
        def test_it_works_well(self):
            pass

    assert Stricter.test_it_works is Port.test_it_works
