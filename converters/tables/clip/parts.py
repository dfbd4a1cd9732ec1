"""What the layouts of CLIP and SigLIP share."""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.transforms import split_axis

# Rows that have an axis before them here.
ROW = split_axis(0, 1)

# Fields of our config that hold for all CLIPs and all SigLIPs of transformers.
FORMS: Mapping[str, Mapping[str, Any]] = {
    'clip': {
        'image_pool': 'cls',
        'image_projection': True,
        'text_causal': True,
        'text_bias': False,
        'logit_bias': False,
    },
    'siglip': {
        'image_pool': 'map',
        'image_projection': False,
        'text_causal': False,
        'text_pool': 'last',
        'text_bias': True,
        'logit_bias': True,
    },
}
