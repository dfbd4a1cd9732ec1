"""Texts as sentence-transformers prepares them: prompts, limits, lower case, what the mean takes."""

import json
import os

import jax
import numpy as np
import pytest
from cases import randomized, transformers
from helpers import table
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import blox as bx

os.environ['HF_HUB_OFFLINE'] = '1'
sentence_transformers = pytest.importorskip('sentence_transformers')

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
WORDS = [*SPECIAL, *'abcdefghij', *'ABCDE', 'q', 'u', ':']
TEXTS = ['a b c d e f g h i j a b c', 'A B e', 'j', 'C a D b']


def folder(path, **files):
    """A folder of sentence-transformers with random weights, a cased vocabulary, and these files."""
    path.mkdir()
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
    )
    randomized(transformers.BertModel(config)).save_pretrained(path)
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        '[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(files.pop('truncation', 20))
    tokenizer.save(str(path / 'tokenizer.json'))
    kinds = {'': 'Transformer', '1_Pooling': 'Pooling'}
    modules = [
        {'idx': i, 'name': str(i), 'path': name, 'type': f'sentence_transformers.models.{kind}'}
        for i, (name, kind) in enumerate(kinds.items())
    ]
    (path / '1_Pooling').mkdir()
    usual = {
        'modules': modules,
        '1_Pooling/config': {'word_embedding_dimension': 16, 'pooling_mode_mean_tokens': True},
        'tokenizer_config': {'tokenizer_class': 'BertTokenizer', 'do_lower_case': False},
    }
    for name in {*usual, *files}:
        content = usual.get(name, {})
        if not isinstance(content, list):
            content = content | files.get(name, {})
            # None takes away what is usual.
            content = {k: v for k, v in content.items() if k != 'do_lower_case' or v is not None}
        (path / f'{name}.json').write_text(json.dumps(content))
    return path


PROMPTS = {'prompts': {'q': 'q u : ', 'long': 'a b c d e f g h i j a b c d e f g : '}}
POOL = {'1_Pooling/config': {'include_prompt': False}}
LIMITED = {'sentence_bert_config': {'max_seq_length': 8, 'do_lower_case': False}}
FOLDERS = {
    'plain': ({}, {}),
    'a limit': (LIMITED, {}),
    'a limit of the tokenizer': ({'tokenizer_config': {'model_max_length': 6}}, {}),
    'two limits': (LIMITED | {'tokenizer_config': {'model_max_length': 6}}, {}),
    'no limit that means one': ({'sentence_bert_config': {'max_seq_length': None}}, {}),
    'a truncation, which it passes over': ({'truncation': 6}, {}),
    'lower case': ({'sentence_bert_config': {'do_lower_case': True}}, {}),
    'a prompt by name': ({'config_sentence_transformers': PROMPTS}, {'prompt_name': 'q'}),
    'no prompt': ({'config_sentence_transformers': PROMPTS}, {}),
    'a prompt as it is': ({'config_sentence_transformers': PROMPTS}, {'prompt': 'e f '}),
    'a default prompt': (
        {'config_sentence_transformers': PROMPTS | {'default_prompt_name': 'q'}},
        {},
    ),
    'a default prompt and none': (
        {'config_sentence_transformers': PROMPTS | {'default_prompt_name': 'q'}},
        {'prompt': ''},
    ),
    'a prompt outside the mean': (
        {'config_sentence_transformers': PROMPTS} | POOL,
        {'prompt_name': 'q'},
    ),
    'the first token after a prompt': (
        {
            'config_sentence_transformers': PROMPTS,
            '1_Pooling/config': {
                'include_prompt': False,
                'pooling_mode_mean_tokens': False,
                'pooling_mode_cls_token': True,
            },
        },
        {'prompt_name': 'q'},
    ),
    'prompts that are empty': (
        {'config_sentence_transformers': {'prompts': {'q': 'q u : ', 'document': ''}}},
        {'prompt_name': 'document'},
    ),
    'a prompt that is always there': ({}, {'prompt_name': 'query'}),
    'a limit that cuts the start': (
        LIMITED | {'tokenizer_config': {'truncation_side': 'left'}},
        {},
    ),
    'a limit of the special tokens and one more': (
        {'sentence_bert_config': {'max_seq_length': 3}},
        {},
    ),
    'cased by no word': ({'tokenizer_config': {'do_lower_case': None}}, {}),
    'a prompt that fills the limit': (
        {'config_sentence_transformers': PROMPTS} | POOL | LIMITED,
        {'prompt_name': 'long'},
    ),
    'a prompt, a limit and lower case': (
        {
            'config_sentence_transformers': PROMPTS,
            'sentence_bert_config': {'max_seq_length': 9, 'do_lower_case': True},
        }
        | POOL,
        {'prompt_name': 'q'},
    ),
}


def theirs(path, **prompt):
    model = sentence_transformers.SentenceTransformer(str(path), device='cpu')
    return model.encode(TEXTS, **prompt)


def ours(path, **prompt):
    model, params = bx.zoo.load(path)
    batch = bx.zoo.text_preprocessor(path)(TEXTS, **prompt)
    return np.asarray(jax.jit(model)(params, *batch)[0].embedding)


@table(FOLDERS)
@pytest.mark.filterwarnings('ignore')
def test_embeddings_are_those_of_sentence_transformers(row, tmp_path):
    files, prompt = row
    made = folder(tmp_path / 'made', **files)
    expected = theirs(made, **prompt)
    np.testing.assert_allclose(ours(made, **prompt), expected, atol=2e-5)
    card = bx.zoo.read_card(made)
    bx.zoo.save(tmp_path / 'own.safetensors', *bx.zoo.load(made), card=card)
    np.testing.assert_allclose(ours(tmp_path / 'own.safetensors', **prompt), expected, atol=2e-5)
    bx.zoo.export(tmp_path / 'again', *bx.zoo.load(made), card=card)
    np.testing.assert_allclose(theirs(tmp_path / 'again', **prompt), expected, atol=1e-6)


@pytest.mark.filterwarnings('ignore')
def test_pooling_may_lie_in_a_folder_of_another_name(tmp_path):
    made = folder(tmp_path / 'made', **({'config_sentence_transformers': PROMPTS} | POOL))
    (made / '1_Pooling').rename(made / '2_Mean')
    modules = json.loads((made / 'modules.json').read_text())
    modules[1]['path'] = '2_Mean'
    (made / 'modules.json').write_text(json.dumps(modules))
    expected = theirs(made, prompt_name='q')
    np.testing.assert_allclose(ours(made, prompt_name='q'), expected, atol=2e-5)


def test_the_texts_tell_these_settings_apart(tmp_path):
    found = [
        ours(folder(tmp_path / str(i), **files), **prompt)
        for i, (files, prompt) in enumerate(FOLDERS.values())
        if i in (0, 1, 2, 6, 7, 12)
    ]
    for i, one in enumerate(found):
        assert all(abs(one - other).max() > 1e-2 for other in found[:i])
