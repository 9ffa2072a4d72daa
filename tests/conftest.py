"""What all rooms share: the compiled engine, before a test listens to what a command says of compiling it."""

import pytest


@pytest.fixture(scope="session")
def kernel() -> None:
    from tokenworks.engine.engine import warm_up

    warm_up()
