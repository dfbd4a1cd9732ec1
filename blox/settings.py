"""Settings of JAX, which its type stubs do not know."""

from typing import Any

import jax


def setting(name: str) -> Any:
    """Return the value that a setting of JAX, such as 'enable_x64', has in this thread."""
    return getattr(jax.config, f'jax_{name}')
