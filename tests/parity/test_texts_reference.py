"""What text models answer, beside transformers' pipelines; tokens that begin and end texts."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from cases import randomized, torch, transformers
from commands import printed
from helpers import table
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import blox as bx

os.environ['HF_HUB_OFFLINE'] = '1'
pytestmark = pytest.mark.filterwarnings('ignore')

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
LETTERS = [*SPECIAL, *'abcdefghijklmnop']
TEXTS = ['a b c d', 'e f', 'p o n m l k j i h g f e d c b a']
BERT = {
    'vocab_size': len(LETTERS),
    'hidden_size': 16,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 24,
    'max_position_embeddings': 48,
}
LABELS = {'id2label': {0: 'x', 1: 'y', 2: 'z'}, 'label2id': {'x': 0, 'y': 1, 'z': 2}}
ONE = {'num_labels': 1}


def bert(path, kind, **fields):
    """A folder of a BERT with random weights and a tokenizer of letters."""
    config = transformers.BertConfig(**BERT, **fields)
    randomized(getattr(transformers, kind)(config)).save_pretrained(path)
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(LETTERS)}, unk_token='[UNK]')
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path / 'tokenizer.json'))
    names = ('pad', 'unk', 'cls', 'sep', 'mask')
    said = {f'{name}_token': token for name, token in zip(names, SPECIAL)}
    (path / 'tokenizer_config.json').write_text(
        json.dumps({'tokenizer_class': 'BertTokenizer', 'do_lower_case': False, **said})
    )
    return path


def pipeline(task, path, **options):
    return transformers.pipeline(task, str(path), device='cpu', **options)


def ours(path, *texts, **options):
    flags = [part for name, value in options.items() for part in (f'--{name}', value)]
    return json.loads(printed('predict', path, *texts, '--json', *flags))


def close(found, expected, key='probability'):
    assert [one['label'] for one in found] == [one['label'] for one in expected]
    scores = [one[key] for one in found], [one['score'] for one in expected]
    np.testing.assert_allclose(*scores, atol=2e-5)


PROBLEMS = {
    'one of several': (LABELS, 'probability'),
    'any of several': (LABELS | {'problem_type': 'multi_label_classification'}, 'probability'),
    'values': (LABELS | {'problem_type': 'regression'}, 'value'),
    'one': (ONE, 'probability'),
    'one value': (ONE | {'problem_type': 'regression'}, 'value'),
    'said': (LABELS | {'problem_type': 'single_label_classification'}, 'probability'),
}


@table(PROBLEMS)
def test_scores_of_texts_are_those_of_transformers(row, tmp_path):
    fields, key = row
    path = bert(tmp_path, 'BertForSequenceClassification', **fields)
    top = len(fields.get('id2label', [0]))
    labels = {'LABEL_0': '0'}
    for expected, found in zip(
        pipeline('text-classification', path, top_k=None)(TEXTS), ours(path, *TEXTS, top=top)
    ):
        expected = [one | {'label': labels.get(one['label'], one['label'])} for one in expected]
        close(found['classes'], expected, key)


@table(PROBLEMS)
def test_what_makes_scores_of_logits_is_kept_by_files_and_exports(row, tmp_path):
    fields, key = row
    path = bert(tmp_path / 'made', 'BertForSequenceClassification', **fields)
    card = bx.zoo.read_card(path)
    bx.zoo.export(tmp_path / 'again', *bx.zoo.load(path), card=card)
    bx.zoo.save(tmp_path / 'own.safetensors', *bx.zoo.load(path), card=card)
    again = pipeline('text-classification', tmp_path / 'again', top_k=None)(TEXTS)
    assert again == pipeline('text-classification', path, top_k=None)(TEXTS)
    assert ours(tmp_path / 'own.safetensors', *TEXTS) == ours(path, *TEXTS)
    assert key in ours(path, *TEXTS)[0]['classes'][0]


def test_pairs_are_classified(tmp_path):
    path = bert(tmp_path, 'BertForSequenceClassification', **LABELS)
    pairs = [{'text': 'a b', 'text_pair': text} for text in TEXTS]
    expected = pipeline('text-classification', path, top_k=None)(pairs)
    for one, found in zip(expected, ours(path, *TEXTS, first='a b', top=3)):
        close(found['classes'], one)


def test_tokens_are_classified(tmp_path):
    path = bert(tmp_path, 'BertForTokenClassification', **LABELS)
    expected = pipeline('token-classification', path, ignore_labels=[])(TEXTS)
    found = ours(path, *TEXTS)
    assert [one['text'] for one in found] == [text for text in TEXTS for _ in text.split()]
    for one, said in zip(found, [token for tokens in expected for token in tokens]):
        assert (one['part'], one['start'], one['end']) == (
            said['word'],
            said['start'],
            said['end'],
        )
        close(one['classes'], [{'label': said['entity'], 'score': said['score']}])


def test_masks_are_filled(tmp_path):
    path = bert(tmp_path, 'BertForMaskedLM')
    texts = ['a [MASK] c', '[MASK] b']
    expected = pipeline('fill-mask', path, top_k=4)(texts)
    for one, found in zip(expected, ours(path, *texts, top=4)):
        close(found['classes'], [{'label': s['token_str'], 'score': s['score']} for s in one])


def test_answers_are_found(tmp_path):
    path = bert(tmp_path, 'BertForQuestionAnswering')
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.BertForQuestionAnswering.from_pretrained(path).eval()
    for text, found in zip(TEXTS, ours(path, *TEXTS, first='k l')):
        inputs = tokenizer('k l', text, return_tensors='pt')
        with torch.no_grad():
            outputs = model(**inputs)
        inside = (inputs['token_type_ids'][0] == 1).nonzero()[:-1, 0]
        start, end = (
            outputs[name][0][inside].softmax(0) for name in ('start_logits', 'end_logits')
        )
        joint = torch.triu(start[:, None] * end[None])
        joint = joint - torch.triu(joint, 15)
        i, j = divmod(int(joint.argmax()), len(inside))
        words = ' '.join(text.split()[i : j + 1])
        close(found['classes'], [{'label': words, 'score': float(joint.max())}])


def test_choices_are_made(tmp_path):
    path = bert(tmp_path, 'BertForMultipleChoice')
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.BertForMultipleChoice.from_pretrained(path).eval()
    inputs = tokenizer(['k l'] * 3, TEXTS, return_tensors='pt', padding=True)
    with torch.no_grad():
        scores = model(**{k: v[None] for k, v in inputs.items()}).logits[0].softmax(0)
    (found,) = ours(path, *TEXTS, first='k l', top=3)
    order = scores.argsort(descending=True).tolist()
    close(found['classes'], [{'label': TEXTS[i], 'score': float(scores[i])} for i in order])


# Tokens that begin and end texts.


def gpt2(path, kind='GPT2LMHeadModel', **fields):
    """A folder of a GPT-2 with random weights and special tokens of its own."""
    names = ['<s>', '</s>', '<pad>', '<end>']
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=264, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(['abc abd'], trainer)
    sizes = {'n_embd': 16, 'n_layer': 2, 'n_head': 2, 'n_positions': 48, 'vocab_size': 264}
    ids = {'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': 2}
    config = transformers.GPT2Config(**sizes, **ids, **fields)
    randomized(getattr(transformers, kind)(config)).save_pretrained(path)
    (path / 'generation_config.json').unlink(missing_ok=True)
    tokenizer.save(str(path / 'tokenizer.json'))
    said = {'bos_token': '<s>', 'eos_token': '</s>', 'model_max_length': 40, 'padding_side': 'left'}
    (path / 'tokenizer_config.json').write_text(
        json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast', **said})
    )
    pad = {'content': '<pad>', 'lstrip': False, 'normalized': False, 'rstrip': False}
    (path / 'special_tokens_map.json').write_text(json.dumps({'pad_token': pad}))
    return path


GENERATION = {
    'one end': ({}, (1,)),
    'more ends': ({'eos_token_id': [1, 3]}, (1, 3)),
    'another end': ({'eos_token_id': 3}, (3,)),
    'other settings and no end': ({'do_sample': False, 'max_new_tokens': 30}, ()),
    'a null end': ({'eos_token_id': None}, ()),
}


@table(GENERATION)
def test_end_tokens_are_the_checkpoints_own_here_and_after_an_export(row, tmp_path):
    fields, ends = row
    path = gpt2(tmp_path / 'made')
    if fields:
        (path / 'generation_config.json').write_text(json.dumps({'pad_token_id': 2} | fields))
    (model, params), card = bx.zoo.load(path), bx.zoo.read_card(path)
    assert model.config.end_tokens == ends
    bx.zoo.export(tmp_path / 'again', model, params, card=card)
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(folder)
        for folder in (path, tmp_path / 'again')
    )
    for name in ('pad_token_id', 'do_sample', 'max_new_tokens'):
        assert getattr(before.generation_config, name) == getattr(after.generation_config, name)
    assert after.config.bos_token_id == before.config.bos_token_id == 0
    assert after.generation_config.eos_token_id == before.generation_config.eos_token_id
    prompts = np.random.default_rng(0).integers(4, 264, (8, 6))
    tokens, lengths = bx.zoo.generate(model, params, prompts, max_new_tokens=40, temperature=0)
    options = {'max_new_tokens': 40, 'do_sample': False}
    expected = after.generate(torch.tensor(prompts), **options)[:, 6:].numpy()
    for row, length, other in zip(np.asarray(tokens), np.asarray(lengths), expected):
        assert row[:length].tolist() == other[:length].tolist()
        assert length == 40 or row[length - 1] in ends


@pytest.mark.parametrize('kind', ['GPT2LMHeadModel', 'GPT2ForTokenClassification'])
def test_the_tokenizer_behaves_as_before_after_an_export(kind, tmp_path):
    path = gpt2(tmp_path / 'made', kind)
    bx.zoo.export(tmp_path / 'again', *bx.zoo.load(path), card=bx.zoo.read_card(path))
    before, after = (
        transformers.AutoTokenizer.from_pretrained(folder) for folder in (path, tmp_path / 'again')
    )
    assert after.special_tokens_map == before.special_tokens_map
    assert after.special_tokens_map['pad_token'] == '<pad>'
    texts = {'text': ['abc abd', 'a' * 60], 'padding': True, 'truncation': True}
    assert after(**texts)['input_ids'] == before(**texts)['input_ids']


@pytest.mark.parametrize('settings', [None, {'bos_token': None, 'unk_token': None}])
def test_a_tokenizer_that_says_little_is_exported_as_it_is_read(settings, tmp_path):
    path = gpt2(tmp_path / 'made')
    (path / 'special_tokens_map.json').unlink()
    (path / 'tokenizer_config.json').unlink()
    if settings:
        said = {'tokenizer_class': 'GPT2Tokenizer', 'eos_token': '</s>', **settings}
        (path / 'tokenizer_config.json').write_text(json.dumps(said))
    bx.zoo.export(tmp_path / 'again', *bx.zoo.load(path), card=bx.zoo.read_card(path))
    before, after = (
        transformers.AutoTokenizer.from_pretrained(folder) for folder in (path, tmp_path / 'again')
    )
    assert after.special_tokens_map == before.special_tokens_map
    assert after.model_input_names == before.model_input_names


def test_a_mask_is_known_after_an_export_of_what_says_none(tmp_path):
    path = bert(tmp_path / 'made', 'BertForMaskedLM')
    (path / 'tokenizer_config.json').unlink()
    bx.zoo.export(tmp_path / 'again', *bx.zoo.load(path), card=bx.zoo.read_card(path))
    texts = ['a [MASK] c', '[MASK] b']
    expected = pipeline('fill-mask', path, top_k=4)(texts)
    assert pipeline('fill-mask', tmp_path / 'again', top_k=4)(texts) == expected


def test_a_text_is_classified_by_its_last_token_that_is_no_padding(tmp_path):
    path = gpt2(tmp_path, 'GPT2ForSequenceClassification', **LABELS)
    model, params = bx.zoo.load(path)
    reference = transformers.GPT2ForSequenceClassification.from_pretrained(path).eval()
    tokens = np.array([[5, 6, 7, 2], [5, 2, 6, 8], [2, 2, 2, 2]], np.int32)
    with torch.no_grad():
        expected = reference(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()
    np.testing.assert_allclose(model(params, jnp.asarray(tokens))[0], expected, atol=1e-5)


SOFTMAX = [{'num_labels': 1}, LABELS | {'problem_type': 'regression'}]


@pytest.mark.parametrize('fields', SOFTMAX)
def test_classes_of_tokens_have_a_softmax_whatever_is_said(fields, tmp_path):
    path = bert(tmp_path, 'BertForTokenClassification', **fields)
    expected = pipeline('token-classification', path, ignore_labels=[])(['a b'])[0]
    found = [one['classes'][0]['probability'] for one in ours(path, 'a b')]
    np.testing.assert_allclose(found, [one['score'] for one in expected], atol=2e-5)


def test_a_model_of_ours_exports_its_own_end(tmp_path):
    model, params = bx.zoo.load('gpt2-pydocs')
    bx.zoo.export(tmp_path, model, params, card=bx.zoo.card('gpt2-pydocs'))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.generation_config.eos_token_id, tokenizer.eos_token) == (0, '<|endoftext|>')


def test_a_text_classifier_made_of_a_gpt2_pools_the_last_token(tmp_path):
    path = gpt2(tmp_path, 'GPT2ForSequenceClassification', **LABELS)
    texts = ['abc', 'abd abc abc', 'a']
    expected = pipeline('text-classification', path, top_k=None)(texts)
    for one, found in zip(expected, ours(path, *texts, top=3)):
        close(found['classes'], one)
