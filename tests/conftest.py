"""What all rooms share: no page width from outside, and the compiled engine, before a test listens to a command."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _plain_page() -> Iterator[None]:
    """Tests that run in parallel are given COLUMNS=80, which commands would obey."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session")
def kernel() -> None:
    from tokenworks.engine.simulator import warm_up

    warm_up()
