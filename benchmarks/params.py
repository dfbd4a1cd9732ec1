"""What Params cost: through jit and tree_map, against a plain dict of the same arrays.

    python benchmarks/params.py

Limits that the project holds itself to: 0.85 for a call, 1.05 for a tree_map update.
"""

from functools import partial

import jax
import jax.numpy as jnp
from common import alternate, machine, median, table

import blox as bx

COUNT, CALLS, ROUNDS = 148, 300, 5


def main() -> None:
    arrays = {f'net/block{i}/w': jnp.full((16,), float(i)) for i in range(COUNT)}
    trees = {'Params': bx.Params.from_entries(arrays, finalized=True), 'dict': arrays}
    call = jax.jit(lambda tree, x: x + jax.tree.leaves(tree)[0])
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree))
    x = jnp.ones(16)
    work = {
        'a call: arrays in, one array out': lambda tree: call(tree, x),
        'a tree_map update': lambda tree: jax.tree.map(lambda w, g: w, tree, tree),
        'a step: arrays in, arrays out': step,
    }
    rows = []
    for name, function in work.items():
        runs = [
            alternate({kind: partial(function, tree) for kind, tree in trees.items()}, CALLS)
            for _ in range(ROUNDS)
        ]
        ratios = sorted(median(run['Params']) / median(run['dict']) for run in runs)
        micro = [f'{1e6 * median([m for run in runs for m in run[kind]]):.1f}' for kind in trees]
        rows.append(
            [name, *micro, f'{ratios[ROUNDS // 2]:.2f}', f'{ratios[0]:.2f}-{ratios[-1]:.2f}']
        )
    print(machine())
    print(f'{COUNT} arrays of 16 float32, medians of {CALLS} calls, {ROUNDS} rounds')
    print(table(['', 'Params, us', 'dict, us', 'ratio', 'range'], rows))


if __name__ == '__main__':
    main()
