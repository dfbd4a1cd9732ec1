"""Strict settings for every test: shapes checked, no implicit promotion, no network."""

import gc
import importlib.metadata
import os

os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=4',
        # Most programs run once: spend little time on making them fast.
        '--xla_backend_optimization_level=0',
        '--xla_llvm_disable_expensive_passes=true',
        '--xla_cpu_parallel_codegen_split_count=1',
    ]
)
# Where jaxlib still knows it, it saves two thirds of the time to compile. An unknown flag would end
# the process.
if tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2])) < (0, 11):
    os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
os.environ['HF_HUB_OFFLINE'] = '1'

import typecheck

typecheck.install()  # Before blox is imported.

import jax
import jaxtyping
import pytest

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_default_matmul_precision', 'highest')


# What is imported is never garbage, and JAX's traces are little of it: looking for it at Python's own
# pace, among ever more objects, took a sixth of the time.
gc.set_threshold(200_000, 20, 20)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _strict():
    with jax.numpy_rank_promotion('raise'), jax.numpy_dtype_promotion('strict'):
        yield


# Where every layer and every model is called: there shapes are checked at each call. Elsewhere the same
# calls would be checked once more, for a seventh of all time.
_CHECKED = ('core', 'models')


@pytest.fixture(autouse=True)
def _checked(request):
    is_checked = request.path.parent.name in _CHECKED
    jaxtyping.config.update('jaxtyping_disable', not is_checked)


@pytest.fixture
def x64():
    """64-bit types on, for comparisons that float32 noise would blur."""
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)


@pytest.fixture
def unchecked(_checked):
    """Checks of shapes off, which take long for large models, and come before what a model says itself."""
    jaxtyping.config.update('jaxtyping_disable', True)
