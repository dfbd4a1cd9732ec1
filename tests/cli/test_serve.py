"""`blox compile`."""

import pytest
from commands import DIGITS, fails, printed, write_encoder
from jax import export
from safetensors.flax import load_file

import blox as bx


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp('models') / 'encoder.safetensors')


def test_compile_writes_a_program_that_answers_as_predict_does(tmp_path):
    out = tmp_path / 'vit.program'
    assert printed('compile', 'vit-digits', '--out', out).splitlines() == [
        f'{out}: ViT for cpu, cuda, tpu',
        'inputs: images float32[batch,8,8,1]',
        'outputs: float32[batch,10]',
    ]
    weights = load_file(out)
    program = export.deserialize(bytearray(weights.pop('program').tobytes()))
    images = bx.zoo.preprocessor('vit-digits')([DIGITS / f'{digit}.png' for digit in (7, 0, 3)])
    assert program.call(weights, images).argmax(-1).tolist() == [7, 0, 3]


def test_compile_casts_for_the_platforms_that_are_named(encoder, tmp_path):
    out = tmp_path / 'x'
    args = ('--out', out, '--platform', 'cpu', '--platform', 'tpu', '--dtype', 'bfloat16')
    assert printed('compile', encoder, *args).splitlines() == [
        f'{out}: BERT for cpu, tpu',
        'inputs: tokens int32[batch,length], mask int32[batch,length]',
        'outputs: embedding bfloat16[batch,16], pooled bfloat16[batch,16], '
        'tokens bfloat16[batch,length,16]',
    ]


@pytest.mark.parametrize('command', ['compile vit-digits --out', 'predict vit-digits a.png --csv'])
def test_no_file_is_replaced(command, tmp_path):
    (tmp_path / 'x').write_text('mine')
    assert 'is there already' in fails(*command.split(), tmp_path / 'x')
    assert (tmp_path / 'x').read_text() == 'mine'
