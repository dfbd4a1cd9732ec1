"""Batches of images and texts: their sizes, and when they are read."""

from pathlib import Path

import numpy as np
import pytest
from families import tiny
from small_models import model_of

import blox as bx
from blox.zoo.inputs.text import EncodedText
from blox.zoo.running import batches


@pytest.mark.parametrize(('count', 'batch'), [(1, 1), (64, 64), (65, 33), (130, 44)])
def test_images_of_any_number_are_one_program(count, batch):
    shapes = []

    def call(params, images):
        shapes.append(images.shape)
        return images[:, 0, 0]

    files = [Path(str(i)) for i in range(count)]
    prepared = {file: np.full((1, 2, 2, 3), float(file.name), np.float32) for file in files}
    found = [*batches.run_images(call, bx.Params(0), prepared.__getitem__, files, report=print)]
    assert [i for i, _ in found] == [*range(count)]
    np.testing.assert_array_equal([row[0] for _, row in found], [*range(count)])
    assert shapes == [(batch, 2, 2, 3)]


def test_files_are_read_ahead_but_not_all_at_once():
    started = []
    answers = batches.ahead(started.append, range(1000), 5)
    for i, (item, done) in enumerate(answers):
        done.result()
        assert item == i
        assert len(started) <= i + 6
        if i == 10:
            answers.close()
    assert len(started) <= 16


def encoded(ids):
    return EncodedText(ids, [0] * len(ids), [0] * len(ids), 0, False, [(0, 0)] * len(ids))


def test_embeddings_of_many_lengths_are_few_programs():
    model = model_of(tiny('bert', context=64))
    params, shapes = bx.zoo.init(model), []

    def call(params, tokens, *others):
        shapes.append(tokens.shape)
        return model(params, tokens, *others)[0].embedding

    sequences = {i: encoded([1] * (i % 60 + 1)) for i in range(400)}
    run = batches.TextBatches(model, params, 400, call)
    found = dict(pair for keys, rows in run(sequences) for pair in zip(keys, rows))
    assert sorted(shapes) == [(32, 8), (32, 16), (32, 32), (32, 64)]
    assert found.keys() == sequences.keys()
