"""Beam search against all there is to find, and against the greedy way."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import misused, printed
from families import tiny
from helpers import table
from small_models import model_of

import blox as bx

MODEL = model_of(tiny('gpt2', vocab_size=5, context=12))
PARAMS = bx.zoo.init(MODEL, 3)
PROMPTS = [[1, 2], [3, 0, 4]]


def log_probability(prompt, tokens):
    logs = bx.zoo.log_probabilities(MODEL, PARAMS, [[*prompt, *tokens]])[0]
    return float(np.asarray(logs)[len(prompt) - 1 :].sum())


def test_enough_beams_find_the_likeliest_of_all():
    found = bx.zoo.beam_search(
        MODEL, PARAMS, PROMPTS, num_beams=25, max_new_tokens=3, stop_tokens=()
    )
    for prompt, row, score in zip(PROMPTS, found.tokens, found.scores):
        scores = {x: log_probability(prompt, x) for x in itertools.product(range(5), repeat=3)}
        best = max(scores, key=scores.__getitem__)
        assert tuple(row.tolist()) == best
        assert float(score) == pytest.approx(scores[best] / 3, abs=1e-5)


def test_one_beam_is_the_greedy_way():
    options = {'max_new_tokens': 6, 'stop_tokens': ()}
    greedy = bx.zoo.generate(MODEL, PARAMS, PROMPTS, temperature=0, **options)
    found = bx.zoo.beam_search(MODEL, PARAMS, PROMPTS, num_beams=1, **options)
    assert found.tokens.tolist() == greedy.tokens.tolist()
    assert found.lengths.tolist() == [6, 6]


def test_prompts_do_not_depend_on_each_other_and_several_come_best_first():
    options = {'num_beams': 4, 'num_return_sequences': 3, 'max_new_tokens': 5, 'stop_tokens': [2]}
    together = bx.zoo.beam_search(MODEL, PARAMS, PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        alone = bx.zoo.beam_search(MODEL, PARAMS, [prompt], **options)
        own = jax.tree.map(lambda a, i=i: a[3 * i : 3 * i + 3], together)
        assert alone.tokens.tolist() == own.tokens.tolist()
        assert (jnp.diff(own.scores) <= 0).all()


@table(
    {
        'no beam': ({'num_beams': 0}, 'expected num_beams > 0'),
        'more than there are': ({'num_beams': 2, 'num_return_sequences': 3}, 'up to as many'),
        'a number': ({'early_stopping': 1}, "False, True or 'never', found 1"),
        'early': ({'early_stopping': 'soon'}, "False, True or 'never', found 'soon'"),
        'room': ({'max_new_tokens': 64}, 'do not fit a context of 12'),
    }
)
def test_what_cannot_be_searched_is_refused(row):
    options, message = row
    with pytest.raises(ValueError, match=message):
        bx.zoo.beam_search(MODEL, PARAMS, PROMPTS, **options)


def test_every_token_may_end_a_sequence():
    found = bx.zoo.beam_search(
        MODEL, PARAMS, PROMPTS, stop_tokens=[*range(5), 1, 1], max_new_tokens=4
    )
    assert found.lengths.tolist() == [1, 1]


def test_what_is_drawn_goes_with_no_beams():
    misused('generate', 'gpt2-pydocs', 'If', '--beams', 2, '--temperature', 0.5)


def test_the_command_and_the_pipeline_write_the_likeliest():
    write = bx.zoo.pipeline('gpt2-pydocs')
    text = write('The for', num_beams=3, max_new_tokens=8)
    assert text.startswith('The for')
    args = ('generate', 'gpt2-pydocs', 'The for', '--beams', 3, '--max-new-tokens', 8)
    assert printed(*args) == text + '\n'
    assert write('The for', num_beams=3, max_new_tokens=8, stop=[text[9:11]]) == text[:9]
