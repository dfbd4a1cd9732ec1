"""How likely texts are: against the model's own logits, in batches, and what is refused."""

import numpy as np
import pytest
from scipy.special import log_softmax

import blox as bx


@pytest.fixture(scope='module')
def model():
    sizes = {'vocab_size': 11, 'context': 20, 'width': 16, 'mlp_dim': 32}
    return bx.zoo.create('gpt2', **sizes, depth=1, heads=2, end_tokens=(0,))


@pytest.fixture(scope='module')
def params(model):
    return bx.zoo.init(model)


TEXTS = [[0, 1, 2], [5, 6], list(range(11)) + list(range(10)), [3] * 17]


def test_each_token_has_its_probability_after_those_before_it(model, params):
    found = bx.zoo.log_probabilities(model, params, TEXTS)
    for text, logs in zip(TEXTS, found):
        logits = np.asarray(model(params, np.array(text)[None, :-1])[0][0], np.float64)
        expected = log_softmax(logits, -1)[range(len(text) - 1), text[1:]]
        np.testing.assert_allclose(logs, expected, atol=1e-5)
        assert logs.dtype == np.float32


def test_a_text_has_the_same_in_any_company(model, params):
    together = bx.zoo.log_probabilities(model, params, TEXTS)
    for text, logs in zip(TEXTS, together):
        (alone,) = bx.zoo.log_probabilities(model, params, [text])
        np.testing.assert_allclose(alone, logs, atol=1e-5)
    assert bx.zoo.log_probabilities(model, params, []) == []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ([1], 'text 0: expected 2 to 21 tokens, found 1'),
        ([1] * 22, 'text 0: expected 2 to 21 tokens, found 22'),
        ([1, 11], r'expected ids in \[0, 11\), found 1 to 11'),
        ([], 'is empty'),
    ],
    ids=['short', 'long', 'beyond', 'empty'],
)
def test_texts_that_the_model_cannot_read_are_refused(model, params, text, message):
    with pytest.raises(ValueError, match=message):
        bx.zoo.log_probabilities(model, params, [text])
