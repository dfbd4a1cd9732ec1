"""Layers: modules that models are made of. Images are NHWC, weights `w` and `b`."""

from blox.layers.activation import ACTIVATIONS
from blox.layers.attention import KVCache, MultiHeadAttention
from blox.layers.conv import Conv, ConvTranspose
from blox.layers.dropout import Dropout, DropPath
from blox.layers.embed import Embed
from blox.layers.linear import Linear, Mlp, Sequential
from blox.layers.norm import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from blox.layers.pool import avg_pool, max_pool
from blox.layers.recurrent import GRU, LSTM, LSTMState, Recurrent, dynamic_scan, static_scan
from blox.layers.rotary import Rotation, rotate, rotation
from blox.layers.scale import LayerScale

__all__ = [
    'ACTIVATIONS',
    'GRU',
    'LSTM',
    'BatchNorm',
    'Conv',
    'ConvTranspose',
    'DropPath',
    'Dropout',
    'Embed',
    'GroupNorm',
    'KVCache',
    'LSTMState',
    'LayerNorm',
    'LayerScale',
    'Linear',
    'Mlp',
    'MultiHeadAttention',
    'RMSNorm',
    'Recurrent',
    'Rotation',
    'Sequential',
    'avg_pool',
    'dynamic_scan',
    'max_pool',
    'rotate',
    'rotation',
    'static_scan',
]
