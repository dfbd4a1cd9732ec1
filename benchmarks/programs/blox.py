"""This library, as its users would: `jax.jit` of functions of Params, which steps donate."""

from functools import partial
from typing import Any

import jax
import optax

import blox as bx
from programs.shared import DECAY, RATE, Program, count, inputs, targets, texts, versions_of

NAMES = {
    'vit': 'vit-b16',
    'resnet': 'resnet50',
    'convnext': 'convnext-tiny',
    'swin': 'swin-tiny',
    'eva': 'dinov3-base',
    'gpt2': 'gpt2',
    'clip': 'clip-b32',
}
FIELDS = [
    'width',
    'depth',
    'heads',
    'depths',
    'widths',
    'block',
    'image_size',
    'num_classes',
    'vocab_size',
    'scan',
]
NO_DROPOUT = dict.fromkeys(('embed_dropout_rate', 'attention_dropout_rate', 'dropout_rate'), 0.0)


def versions() -> str:
    return f'blox {bx.__version__} with {versions_of("jax", "jaxlib")}'


def create(model: str, sizes: dict[str, Any]) -> Any:
    """Make a model of the catalog with these sizes."""
    overrides = {name: sizes[name] for name in FIELDS if name in sizes}
    if model == 'clip':
        depths = dict.fromkeys(('image_depth', 'text_depth'), overrides.pop('depth'))
        return bx.zoo.create(NAMES[model], **overrides, **depths)
    if 'width' in sizes:
        overrides['mlp_dim'] = 4 * sizes['width']
    if model in ('gpt2', 'bert'):
        overrides |= {**NO_DROPOUT, 'context': sizes['context']}
    # The catalog's ViT is Hugging Face's, the others' is timm's.
    overrides |= {'vit': {'norm_eps': 1e-6}, 'bert': {'pooler': False}}.get(model, {})
    name = {**NAMES, 'bert': 'all-minilm-l6'}[model]
    return bx.zoo.create(name, **overrides)


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    net = create(model, sizes)
    if work == 'init':
        return _anew(partial(bx.zoo.init, net), net)
    x = jax.numpy.asarray(inputs(model, sizes))
    if model == 'clip':
        net_of_both, tokens = net, jax.numpy.asarray(texts(sizes))
        pairs = lambda params, x: (net_of_both(params, x, tokens)[0].logits, params)  # noqa: E731
        return _forward(pairs, bx.zoo.init(net), x)
    if work == 'compile':
        return _compile(net, x, jax.numpy.asarray(targets(model, sizes)))
    params = bx.zoo.init(net)
    match work:
        case 'forward':
            return _forward(net, params, x)
        case 'greedy' | 'sampled':
            return _decode(net, params, sizes, work)
        case 'frozen':
            params = params.freeze().unfreeze('*/head/*')
        case 'adapters':
            params = bx.lora(params, '**/qkv/w').unfreeze('*/head/*')
    return _step(net, params, x, jax.numpy.asarray(targets(model, sizes)))


def _forward(net: Any, params: bx.Params, x: jax.Array) -> Program:
    run = jax.jit(lambda params, x: net(params, x)[0])
    return Program(
        lambda: jax.block_until_ready(run(params, x)),
        weights(params),
        lambda: run.lower(params, x).compile(),
    )


OPTIMIZER = optax.adamw(RATE, weight_decay=DECAY)


def _step_of(net: Any) -> Any:
    """Return a jitted step of what is trainable."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: bx.Params, state: Any, x: jax.Array, y: jax.Array) -> Any:
        trainable, rest = params.split_trainable()

        def loss_of(trainable: bx.Params) -> tuple[jax.Array, bx.Params]:
            logits, new = net(trainable.merge(rest), x, is_training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), new.split_trainable()[1]

        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        updates, state = OPTIMIZER.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates).merge(rest), state, loss

    return step


def _step(net: Any, params: bx.Params, x: jax.Array, y: jax.Array) -> Program:
    step, parameters = _step_of(net), weights(params)
    now = params, jax.jit(OPTIMIZER.init)(params.split_trainable()[0])
    # Donated arrays are gone after a call: the program is compiled anew for their shapes.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), now)

    def call() -> None:
        nonlocal now
        *now, loss = step(*now, x, y)
        jax.block_until_ready((now, loss))

    return Program(call, parameters, lambda: step.lower(*shapes, x, y).compile())


def _compile(net: Any, x: jax.Array, y: jax.Array) -> Program:
    params = bx.spec(net, *net.example_inputs())
    state = jax.eval_shape(OPTIMIZER.init, params.split_trainable()[0])
    step = _step_of(net)
    return _anew(lambda: step.lower(params, state, x, y).compile(), net)


def _decode(net: Any, params: bx.Params, sizes: dict[str, Any], work: str) -> Program:
    how = {'temperature': 0.0} if work == 'greedy' else {'top_k': 50, 'top_p': 0.9}
    prompts, new = inputs('gpt2', sizes), sizes['new']

    def call() -> None:
        jax.block_until_ready(
            bx.zoo.generate(net, params, prompts, max_new_tokens=new, stop_tokens=(), **how)
        )

    return Program(call, weights(params))


def _anew(call: Any, net: Any) -> Program:
    """Return `call` as a program that finds nothing compiled."""

    def run() -> None:
        jax.clear_caches()
        jax.block_until_ready(jax.tree.leaves(call()))

    return Program(run, weights(bx.spec(net, *net.example_inputs())))


def weights(params: bx.Params) -> int:
    """Count the numbers that are neither batch statistics nor rng."""
    return count(param for param in params.values() if not param.is_state)
