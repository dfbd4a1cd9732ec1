"""blox: explicit, functional neural networks for JAX, and pretrained models made of them."""

import importlib
from typing import TYPE_CHECKING, Any

from blox.averaging import average
from blox.checkpoint import load, save
from blox.display import display, to_html, to_text
from blox.graph import Graph
from blox.initialization import init, spec
from blox.labels import labels
from blox.layers import (
    GRU,
    LSTM,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    DropPath,
    Embed,
    GroupNorm,
    KVCache,
    LayerNorm,
    LayerScale,
    Linear,
    LSTMState,
    Mlp,
    MultiHeadAttention,
    Recurrent,
    RMSNorm,
    Sequential,
    avg_pool,
    dynamic_scan,
    max_pool,
    static_scan,
)
from blox.lora import load_lora, lora, merge_lora, save_lora
from blox.module import Module
from blox.param import Param
from blox.params import Params
from blox.scan import scan
from blox.sharding import shard, shardings
from blox.tap import tap
from blox.tensorfile import CheckpointError

if TYPE_CHECKING:
    from blox import converters, zoo

__version__ = '0.1.0'

__all__ = [
    'GRU',
    'LSTM',
    'BatchNorm',
    'CheckpointError',
    'Conv',
    'ConvTranspose',
    'DropPath',
    'Dropout',
    'Embed',
    'Graph',
    'GroupNorm',
    'KVCache',
    'LSTMState',
    'LayerNorm',
    'LayerScale',
    'Linear',
    'Mlp',
    'Module',
    'MultiHeadAttention',
    'Param',
    'Params',
    'RMSNorm',
    'Recurrent',
    'Sequential',
    'average',
    'avg_pool',
    'converters',
    'display',
    'dynamic_scan',
    'init',
    'labels',
    'load',
    'load_lora',
    'lora',
    'max_pool',
    'merge_lora',
    'save',
    'save_lora',
    'scan',
    'shard',
    'shardings',
    'spec',
    'static_scan',
    'tap',
    'to_html',
    'to_text',
    'zoo',
]


def __getattr__(name: str) -> Any:
    """Import the upper floors at their first use, so that `import blox` stays cheap."""
    if name in ('zoo', 'converters'):
        return importlib.import_module(f'blox.{name}')
    raise AttributeError(f"module 'blox' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what users need, the upper floors included."""
    return __all__
