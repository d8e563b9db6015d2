"""What tests of refusals share."""

from collections.abc import Callable
from typing import Any

import pytest

from federation.core.errors import EntenteError, Reason


def refused(reason: Reason, act: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Calls something that must be refused for a reason; returns the item that the error names."""
    with pytest.raises(EntenteError) as caught:
        act(*args, **kwargs)
    assert caught.value.reason is reason, caught.value
    return caught.value.item
