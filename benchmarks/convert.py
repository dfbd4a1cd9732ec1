"""First conversions of full-size checkpoints: time and memory, beside what others take.

    python benchmarks/convert.py

Needs torch and transformers (`pip install -e ".[parity]"`), which write GPT-2 small and ViT-B/16 with
random weights. Limits that the project holds itself to: 1.5 times a raw read of the file for
GPT-2, where nothing is transposed, 3.5 times for ViT-B, where everything is; and a peak of 1.3
times the model's size. The files are in the page cache for all ways. What torch and transformers
load is mapped: they read it when it is used.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from common import machine, median, table
from worker import memory

import blox as bx
from blox.converters import convert, open_source
from blox.zoo.comparing.parity import import_reference
from blox.zoo.loading.foreign import read_card
from blox.zoo.models import families

ROUNDS = 7


def write_checkpoints(folder: str) -> list[str]:
    """GPT-2 small and ViT-B/16 as transformers saves them, and ViT-B/16 as timm does."""
    transformers, timm = import_reference('transformers'), import_reference('timm')
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    gpt2.save_pretrained(f'{folder}/gpt2')
    vit.save_pretrained(f'{folder}/vit-b16')
    timm.models.save_for_hf(
        timm.create_model('vit_base_patch16_224'),
        f'{folder}/vit-b16-timm',
        safe_serialization=True,
    )
    return ['gpt2', 'vit-b16', 'vit-b16-timm']


def ours(folder: str) -> Callable[[], Any]:
    card = read_card(open_source(folder), 'model')
    model = families()[card.family].build(card.config)
    return lambda: convert(folder, model)


def transformers_way(folder: str) -> Callable[[], Any]:
    transformers = import_reference('transformers')
    named = json.loads((Path(folder) / 'config.json').read_text())
    cls = getattr(transformers, named['architectures'][0])
    return lambda: cls.from_pretrained(folder)


def numpy_way(folder: str) -> Callable[[], Any]:
    from safetensors.numpy import load_file

    return lambda: load_file(f'{folder}/model.safetensors')


def torch_way(folder: str) -> Callable[[], Any]:
    from safetensors.torch import load_file

    return lambda: load_file(f'{folder}/model.safetensors')


def raw_way(folder: str) -> Callable[[], Any]:
    return lambda: (Path(folder) / 'model.safetensors').read_bytes()


WAYS = {
    "reading the file's bytes": raw_way,
    'bx.converters.convert': ours,
    'safetensors.numpy.load_file': numpy_way,
    'safetensors.torch.load_file': torch_way,
    'transformers from_pretrained': transformers_way,
}


def peak() -> int:
    """The most bytes of memory that this process ever held."""
    # getrusage would tell of the parent's memory before exec, too.
    return memory('VmHWM')


def measure(way: str, folder: str) -> tuple[float, float, int]:
    """Seconds of the way's first call, of a raw read after it, and growth of the peak memory."""
    function, raw = WAYS[way](folder), raw_way(folder)
    jax.devices()  # starting JAX is no part of loading
    before, start = peak(), time.perf_counter()
    result = function()
    jax.block_until_ready(result if isinstance(result, bx.Params) else ())
    seconds, grown = time.perf_counter() - start, peak() - before
    del result
    raw()
    start = time.perf_counter()
    raw()
    return seconds, time.perf_counter() - start, grown


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for name in write_checkpoints(folder):
            place = os.path.join(folder, name)
            size = os.path.getsize(f'{place}/model.safetensors')
            rows = []
            for way in WAYS:
                if 'transformers' in way and 'timm' in name:
                    continue
                runs = [run_alone(way, place) for _ in range(ROUNDS)]
                ratios = sorted(seconds / raw for seconds, raw, _ in runs)
                ms = 1e3 * median([seconds for seconds, _, _ in runs])
                grown = max(grown for _, _, grown in runs) / size
                spread = f'{ratios[0]:.2f}-{ratios[-1]:.2f}'
                rows.append([way, f'{ms:.0f}', f'{median(ratios):.2f}', spread, f'{grown:.2f}'])
            print(f'\n{name}: {size / 1e6:.0f} MB, the first call in each of {ROUNDS} processes\n')
            print(table(['', 'ms', 'ratio to reading', 'range', 'peak memory / size'], rows))


def run_alone(way: str, folder: str) -> tuple[float, float, int]:
    command = [sys.executable, __file__, way, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
    else:
        main()
