"""Models beside those of other libraries: time, first call and memory of the same work.

    python benchmarks/models.py --torch-python PYTHON --rows vit-b16,gpt2

Each library works in a process of its own, all of them alive and taking turns: one computes while
the others sleep, so that noise hits all alike. Weights are random; architecture and sizes, float32
and the cores are the same for all. torch is measured as it is and with `torch.compile`; the faster
is its best. `--libraries` chooses among them, `--small` takes tiny models, to test this script.

The others' libraries need `pip install -e ".[parity,benchmarks]"`, and keras-hub, which
asks for TensorFlow that it does not import, `pip install --no-deps keras-hub==0.32.0`. torch may
be in another Python than JAX: name that one with `--torch-python`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from common import machine, table

SECONDS = 0.5  # A turn lasts as long, or one call.
# Small models test the script: spend little time on making programs fast.
QUICK = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
LIBRARIES = {
    'blox': 'blox',
    'torch': 'torch',
    'torch.compile': 'torch_compile',
    'keras-hub': 'keras_hub',
    'Flax NNX': 'flax_nnx',
    'Equimo': 'equimo',
    'by hand': 'by_hand',
}
PEERS = [title for title in LIBRARIES if title != 'by hand']


class Entry(NamedTuple):
    """One line: what a library does, and in which sizes."""

    title: str
    library: str
    work: str
    model: str
    sizes: dict[str, Any]


class Row(NamedTuple):
    """Lines that are compared: how long the first takes, relative to each of the others.

    `rounds` is the most that are worth their time; with 0 only the first call counts.
    """

    title: str
    entries: list[Entry]
    rounds: int = 100


VIT_B = {'image_size': 224, 'num_classes': 1000, 'width': 768, 'depth': 12, 'heads': 12}
VIT_S = {**VIT_B, 'width': 384, 'heads': 6}
RESNET_50 = {'block': 'bottleneck', 'depths': (3, 4, 6, 3), 'image_size': 224, 'num_classes': 1000}
RESNET_18 = {**RESNET_50, 'block': 'basic', 'depths': (2, 2, 2, 2)}
CONVNEXT_T = {
    'depths': (3, 3, 9, 3),
    'widths': (96, 192, 384, 768),
    'image_size': 224,
    'num_classes': 1000,
}
DINOV3_B = {**VIT_B, 'image_size': 256, 'num_classes': 0}
CLIP_B = {'image_size': 224, 'depth': 12, 'length': 77}
SWIN_T = {'depths': (2, 2, 6, 2), 'image_size': 224, 'num_classes': 1000}
GPT2 = {'vocab_size': 50257, 'context': 1024, 'width': 768, 'depth': 12, 'heads': 12}
NARROW = {**GPT2, 'width': 64, 'heads': 2, 'vocab_size': 512, 'batch': 2, 'length': 64}
MINILM = {'vocab_size': 30522, 'context': 512, 'width': 384, 'depth': 6, 'heads': 12}


def peers(title: str, work: str, model: str, **sizes: Any) -> Row:
    """Return a row of one work in all libraries."""
    return Row(title, [Entry(name, name, work, model, sizes) for name in PEERS])


def among(title: str, model: str, works: dict[str, tuple[str, dict[str, Any]]], **more: Any) -> Row:
    """Return a row of different works of this library: title to work and sizes."""
    entries = [Entry(name, 'blox', work, model, sizes) for name, (work, sizes) in works.items()]
    return Row(title, entries, **more)


def growth(title: str, work: str, model: str, name: str, values: list[int], **sizes: Any) -> Row:
    """Return a row of one work with one of its sizes growing, the largest first."""
    works = {f'blox, {name} {value}': (work, {**sizes, name: value}) for value in values[::-1]}
    return among(title, model, works)


def beside_hand(title: str, model: str, **sizes: Any) -> Row:
    names = ('blox', 'by hand')
    return Row(title, [Entry(name, name, 'forward', model, sizes) for name in names])


FULL = ('step', {**VIT_S, 'batch': 8})
ROWS = {
    'resnet50': peers('ResNet-50 forward, 4 images', 'forward', 'resnet', **RESNET_50, batch=4),
    'vit-b16': peers('ViT-B/16 forward, 4 images', 'forward', 'vit', **VIT_B, batch=4),
    'convnext-t': peers(
        'ConvNeXt-T forward, 4 images', 'forward', 'convnext', **CONVNEXT_T, batch=4
    ),
    'swin-t': peers('Swin-T forward, 4 images', 'forward', 'swin', **SWIN_T, batch=4),
    'dinov3-b': peers('DINOv3-B/16 forward, 4 images', 'forward', 'eva', **DINOV3_B, batch=4),
    'clip-b32': peers('CLIP-B/32, 4 images and texts', 'forward', 'clip', **CLIP_B, batch=4),
    'gpt2': peers('GPT-2 forward, 1 x 512 tokens', 'forward', 'gpt2', **GPT2, batch=1, length=512),
    'minilm': peers('MiniLM-L6, 32 x 64 tokens', 'forward', 'bert', **MINILM, batch=32, length=64),
    'gpt2-greedy': peers(
        'GPT-2, 64 tokens after 16, greedily', 'greedy', 'gpt2', **GPT2, batch=1, length=16, new=64
    ),
    'gpt2-sampled': peers(
        'GPT-2, 64 tokens after 16, top-k 50 and top-p 0.9',
        'sampled',
        'gpt2',
        **GPT2,
        batch=1,
        length=16,
        new=64,
    ),
    'vit-s16-step': peers('ViT-S/16 AdamW step, 8 images', 'step', 'vit', **VIT_S, batch=8),
    'resnet18-step': peers(
        'ResNet-18 AdamW step, 8 images', 'step', 'resnet', **RESNET_18, batch=8
    ),
    'gpt2-step': peers(
        'GPT-2 AdamW step, 2 x 256 tokens', 'step', 'gpt2', **GPT2, batch=2, length=256
    ),
    'frozen': among(
        'ViT-S/16 step, 8 images, the head alone',
        'vit',
        {'blox, head alone': ('frozen', FULL[1]), 'blox, all': FULL},
    ),
    'adapters': among(
        'ViT-S/16 step, 8 images, adapters',
        'vit',
        {'blox, adapters of qkv': ('adapters', FULL[1]), 'blox, all': FULL},
    ),
    'by-hand-vit': beside_hand('ViT-B/16 forward, 4 images', 'vit', **VIT_B, batch=4),
    'by-hand-gpt2': beside_hand('GPT-2 forward, 1 x 512', 'gpt2', **GPT2, batch=1, length=512),
    'growth-batch': growth(
        'ViT-B/16 forward by batch', 'forward', 'vit', 'batch', [1, 2, 4], **VIT_B
    ),
    'growth-length': growth(
        'GPT-2 forward by length', 'forward', 'gpt2', 'length', [128, 256, 512], **GPT2, batch=1
    ),
    'growth-depth': growth(
        'ViT-S/16 step by depth', 'step', 'vit', 'depth', [6, 12, 24], **{**VIT_S, 'batch': 2}
    ),
    'compile': among(
        'compiling a step of GPT-2 of width 64',
        'gpt2',
        {
            f'blox, {how}depth {depth}': ('compile', {**NARROW, 'depth': depth, **scan})
            for how, scan in (('stacked, ', {'scan': True}), ('', {}))
            for depth in (48, 12)
        },
        rounds=0,
    ),
    'init-resnet50': among(
        'bx.zoo.init of ResNet-50', 'resnet', {'blox': ('init', RESNET_50)}, rounds=3
    ),
    'init-gpt2': among(
        'bx.zoo.init of GPT-2 at depth 48',
        'gpt2',
        {'blox': ('init', {**GPT2, 'depth': 48})},
        rounds=0,
    ),
}


def small(model: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a tiny model of the same kind."""
    tiny = {
        'vit': {'image_size': 32, 'width': 64, 'heads': 2},
        'eva': {'image_size': 32, 'width': 64, 'heads': 2},
        'resnet': {'image_size': 32, 'depths': (1, 1, 1, 1)},
        'convnext': {'image_size': 32, 'depths': (1, 1, 1, 1), 'widths': (16, 32, 64, 128)},
        'clip': {'image_size': 32},
        'swin': {'image_size': 64, 'depths': (1, 2, 1, 1)},
        'gpt2': {'width': 64, 'heads': 2, 'vocab_size': 512, 'context': 128},
        'bert': {'width': 64, 'heads': 2, 'vocab_size': 512, 'context': 64},
    }[model]
    if 'depth' in sizes:
        tiny['depth'] = max(1, sizes['depth'] // 12)
    if 'length' in sizes:
        tiny['length'] = max(8, sizes['length'] // 8)
    return {**sizes, **tiny}


class Worker:
    """A process of `worker.py`, which answers what it is told to do."""

    def __init__(self, python: str, library: str, is_small: bool) -> None:
        self.library = library
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115
        command = [python, str(Path(__file__).with_name('worker.py')), LIBRARIES[library]]
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
        environment = {**os.environ, 'XLA_FLAGS': QUICK} if is_small else None
        self.process = subprocess.Popen(
            command, stderr=self.errors, text=True, env=environment, **pipes
        )

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the worker's answer; end with its own last words if it dies."""
        print(json.dumps({'do': what, **arguments}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise SystemExit(f'{self.library} failed to {what}:\n{self.errors.read()[-2000:]}')
        return json.loads(answer)

    def close(self) -> None:
        """Let it end, and wait until it has."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Result(NamedTuple):
    """What was measured of an entry: calls by turns, and what `worker.py` says else."""

    entry: Entry
    turns: list[list[float]]
    found: dict[str, Any]


def measure(row: Row, rounds: int, pythons: dict[str, str], is_small: bool) -> list[Result]:
    """Prepare a worker for each entry, one after the other, and give them turns."""
    workers: list[Worker] = []
    results: list[Result] = []
    for entry in row.entries:
        python = pythons.get(entry.library, sys.executable)
        workers.append(Worker(python, entry.library, is_small))
        about = workers[-1].do('about')
        sizes = small(entry.model, entry.sizes) if is_small else entry.sizes
        order = {'work': entry.work, 'model': entry.model, 'sizes': sizes}
        flops = 'by hand' in {each.library for each in row.entries}
        found = about if 'missing' in about else workers[-1].do('prepare', **order, flops=flops)
        results.append(Result(entry, [], {**about, **found}))
    active = [pair for pair in zip(workers, results) if 'missing' not in pair[1].found]
    for _ in range(min(rounds, row.rounds)):
        for worker, result in active:
            answer = worker.do('turn', seconds=SECONDS)
            result.turns.append(answer['times'])
            for share in ('spun', 'others'):
                result.found.setdefault(share, []).append(answer[share])
    for worker, result in active:
        result.found.update(worker.do('peak'))
        if not result.turns:
            result.turns.append([result.found['first']])
    for worker in workers:
        worker.close()
    return results


def spread(values: list[float], form: str) -> list[str]:
    """Return the median and the range, as two cells; one value has no range."""
    low, middle, high = (f'{x:{form}}' for x in (min(values), median(values), max(values)))
    return [middle, f'{low}-{high}' if len(values) > 1 else '']


HEADER = ['', '', 'ms', 'range', 'first / this', 'range', 'first call, s', 'peak, MB', 'GFLOP']


def lines(row: Row, results: list[Result]) -> list[list[str]]:
    """Return a row's lines of the table; the ratios are those of turns in the same round."""
    first, cells = [median(turn) for turn in results[0].turns], []
    for entry, turns, found in results:
        if 'missing' in found:
            cells.append([row.title, entry.title, *[''] * (len(HEADER) - 2)])
            continue
        times = [median(turn) for turn in turns]
        ratios = [a / b for a, b in zip(first, times)]
        compared = spread(ratios, '.2f') if ratios and turns is not results[0].turns else ['', '']
        flops = f'{found["flops"] / 1e9:.3f}' if 'flops' in found else ''
        last = [f'{found["first"]:.1f}', f'{found["peak"] / 1e6:.0f}', flops]
        ms = spread([1e3 * x for x in times], '.1f')
        cells.append([row.title, entry.title, *ms, *compared, *last])
    return cells


def notes(row: Row, results: list[Result]) -> list[str]:
    """Say what is missing, who has other weights than the first, and what disturbed the measurement."""
    said, of_first = [], results[0].found.get('parameters')
    for entry, _, found in results:
        name = f'{row.title}, {entry.title}'
        if 'missing' in found:
            said.append(f'{name}: {found["missing"]}')
        elif entry.sizes == results[0].entry.sizes and found['parameters'] != of_first:
            said.append(f'{name}: {found["parameters"]:,} weights, the first has {of_first:,}')
        if (spun := max(found.get('spun', [0]))) > 0.05:
            said.append(f'{name}: computed in {100 * spun:.0f} % of its wait')
        if (others := median(found.get('others', [0]))) > 0.05:
            said.append(f'{name}: NOISE, other processes took {100 * others:.0f} % of the cores')
    return said


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = lambda text: text.split(',')  # noqa: E731
    parser.add_argument('--rows', type=listed, default=[*ROWS], help=', '.join(ROWS))
    parser.add_argument('--libraries', type=listed, default=[*LIBRARIES], help=', '.join(LIBRARIES))
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--torch-python', default=sys.executable)
    parser.add_argument('--small', action='store_true')
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    pythons = dict.fromkeys(('torch', 'torch.compile'), args.torch_python)
    print(f'{machine()}\nmedians of {args.rounds} turns of {SECONDS} s or a call, float32\n')
    print(table(HEADER, []))
    said, versions = [], {}
    for name in args.rows:
        row = ROWS[name]
        row = row._replace(entries=[x for x in row.entries if x.library in args.libraries])
        results = measure(row, args.rounds, pythons, args.small)
        for cells in lines(row, results):
            print('| ' + ' | '.join(cells) + ' |', flush=True)
        said += notes(row, results)
        versions |= {x.entry.library: x.found.get('versions', '') for x in results}
    said += [f'{library}: {version}' for library, version in versions.items() if version]
    print('\n' + '\n'.join(f'- {line}' for line in said))


if __name__ == '__main__':
    main()
