"""Read the tokenizer of a checkpoint's folder: one file, or the vocabulary of a GPT-2, CLIP or BERT."""

import contextlib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from blox.tensorfile import CheckpointError, fail, parse_json
from blox.zoo.inputs.sentencepiece import read_sentencepiece
from blox.zoo.inputs.tokenizer_bounds import (
    check_added_tokens,
    check_merges,
    check_tokenizer,
    check_vocabulary,
)

# All the files that `read_tokenizer` may look for.
TOKENIZER_FILES = (
    'tokenizer.json',
    'vocab.json',
    'merges.txt',
    'vocab.txt',
    'spiece.model',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'added_tokens.json',
    'chat_template.jinja',
)
MAX_BYTES = 64 * 2**20

# Settings of tokenizer_config.json that are followed, with what holds where it is silent.
_GPT2 = {
    'add_prefix_space': False,
    'unk_token': '<|endoftext|>',
    'bos_token': '<|endoftext|>',
    'eos_token': '<|endoftext|>',
    'pad_token': '<|endoftext|>',
}
_BERT = {
    'do_lower_case': True,
    'strip_accents': None,
    'tokenize_chinese_chars': True,
    'unk_token': '[UNK]',
    'sep_token': '[SEP]',
    'pad_token': '[PAD]',
    'cls_token': '[CLS]',
    'mask_token': '[MASK]',
}
_CLIP = {
    'unk_token': '<|endoftext|>',
    'bos_token': '<|startoftext|>',
    'eos_token': '<|endoftext|>',
    'pad_token': '<|endoftext|>',
}
_SIGLIP = {'unk_token': '<unk>', 'eos_token': '</s>', 'pad_token': '</s>'}
_END_OF_WORD = '</w>'
# How CLIP splits a text: at what its words, contractions and single digits are.
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# Of Python's spaces, which are four more than those of expressions.
_SINGLE_SPACES = normalizers.Replace(Regex(r'[\s\x1c-\x1f]+'), ' ')
# Classes of tokenizers that transformers takes for models of a type.
_CLASSES = {
    'bert': 'BertTokenizer',
    'gpt2': 'GPT2Tokenizer',
    'clip': 'CLIPTokenizer',
    'siglip': 'SiglipTokenizer',
}
# What fills texts up, and on which side, where tokenizer_config.json of a class does not say.
_FILLED: Mapping[str, Mapping[str, str]] = {
    'CLIPTokenizer': {'pad_token': '<|endoftext|>'},
    'SiglipTokenizer': {'pad_token': '</s>'},
    'GemmaTokenizer': {'pad_token': '<pad>', 'padding_side': 'left'},
    'Siglip2Tokenizer': {'pad_token': '<pad>', 'padding_side': 'left'},
}
# Classes that read spiece.model alone; what they do with a text stands in the tokenizer.json that we make.
NEEDS_SPIECE = ('SiglipTokenizer',)
# Settings that speak of where a tokenizer lies, or of code of its own.
_OF_A_PLACE = (
    'auto_map',
    'backend',
    'is_local',
    'local_files_only',
    'name_or_path',
    'special_tokens_map_file',
    'tokenizer_file',
)
# Settings that can be followed only where they are on, or off and empty.
_ONLY = {
    'add_bos_token': False,
    'do_basic_tokenize': True,
    'never_split': False,
    'additional_special_tokens': False,
    'extra_special_tokens': False,
}


def read_tokenizer(folder: Path, model_type: str = '') -> str:
    """Return the text of a tokenizer.json for a checkpoint's folder; '' if it holds no tokenizer.

    It is made of tokenizer.json, of GPT-2's or CLIP's vocab.json and merges.txt, of BERT's vocab.txt, or
    of SigLIP's spiece.model, in this order; tokenizer_config.json says how, and config.json's
    `model_type` for whom. Padding and truncation that a tokenizer.json prescribes are taken out, so
    that a text's tokens are its own, all of them.
    Raises CheckpointError, which names the file, for what is malformed or cannot be followed.
    """
    config = read_tokenizer_config(folder, model_type)
    if (path := folder / 'tokenizer.json').is_file():
        tokenizer = _as_configured(path, parse_tokenizer(path, _read_text(path)), config)
    elif (folder / 'vocab.json').is_file() or (folder / 'merges.txt').is_file():
        is_clip = _class_of(config) == 'CLIPTokenizer'
        tokenizer = (_read_clip if is_clip else _read_gpt2)(folder, config)
    elif (folder / 'vocab.txt').is_file():
        tokenizer = _read_bert(folder, config)
    elif (path := folder / 'spiece.model').is_file():
        tokenizer = _as_configured(path, _read_siglip(path, config), config)
    else:
        return ''
    return tokenizer.to_str()


def read_tokenizer_config(folder: Path, model_type: str = '') -> dict[str, Any]:
    """Read tokenizer_config.json, with the special tokens and the template that may lie beside it.

    Where it says no class, that is transformers' own for models of this type.
    """
    config: dict[str, Any] = {}
    if (path := folder / 'special_tokens_map.json').is_file():
        tokens = parse_json(path, _read_text(path), 'the file')
        config |= {name: _content(token) for name, token in tokens.items() if token is not None}
    if (path := folder / 'tokenizer_config.json').is_file():
        config |= parse_json(path, _read_text(path), 'the file')
    if (path := folder / 'chat_template.jinja').is_file():
        config['chat_template'] = _read_text(path)
    if model_type in _CLASSES and not config.get('tokenizer_class'):
        config['tokenizer_class'] = _CLASSES[model_type]
    for name in _OF_A_PLACE:
        config.pop(name, None)
    return {**_FILLED.get(_class_of(config), {}), **config}


def _class_of(config: Mapping[str, Any]) -> str:
    """Return the class of a tokenizer_config.json, whose fast form is one with it."""
    return str(config.get('tokenizer_class')).removesuffix('Fast')


def _as_configured(path: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> Tokenizer:
    """Do with tokenizer.json as transformers' class does: some set parts of it themselves."""
    kind = _class_of(config)
    about = path.with_name('tokenizer_config.json')
    if kind == 'BertTokenizer':
        settings = _settings_of(about, config, _BERT)
        tokenizer.normalizer = _bert_normalizer(settings)
        begin, end = (tokenizer.token_to_id(settings[name]) for name in ('cls_token', 'sep_token'))
        if begin is not None and end is not None:
            pieces = settings['cls_token'], begin, settings['sep_token'], end
            tokenizer.post_processor = _bert_template(*pieces)
    if kind == 'CLIPTokenizer':
        _work_as_clip(tokenizer, _settings_of(about, config, _CLIP))
    splitter = tokenizer.pre_tokenizer
    if kind == 'GPT2Tokenizer' and isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = _settings_of(about, config, _GPT2)['add_prefix_space']
        tokenizer.pre_tokenizer = splitter
    if kind == 'SiglipTokenizer':
        lower_case = _settings_of(about, config, {'do_lower_case': True})['do_lower_case']
        _normalize_first(tokenizer, *_canonical(lower_case=lower_case))
    # SigLIP 2 was trained on lower-case texts, as its do_lower_case says; its class in transformers does it.
    is_lower = kind == 'GemmaTokenizer' and config.get('do_lower_case') is True
    if is_lower or kind == 'Siglip2Tokenizer':
        _normalize_first(tokenizer, normalizers.Lowercase())
    return tokenizer


def clean_first(path: Path, text: str, way: str) -> str:
    """Return a tokenizer.json's text with what open_clip does first: 'whitespace', 'lower' or 'canonicalize'.

    Its repair of wrongly decoded texts and of HTML's entities is left out.
    """
    spaces = [_SINGLE_SPACES, normalizers.Strip()]
    underscores = normalizers.Replace('_', ' ')
    ways: Mapping[str, Sequence[normalizers.Normalizer]] = {
        'whitespace': spaces,
        'lower': [*spaces, normalizers.Lowercase()],
        'canonicalize': [underscores, *_canonical(lower_case=True)],
    }
    if way not in ways:
        fail(path, f'expected tokenizer_kwargs to clean by {", ".join(ways)}, found {way!r}')
    tokenizer = Tokenizer.from_str(text)
    _normalize_first(tokenizer, *ways[way])
    return tokenizer.to_str()


def _canonical(*, lower_case: bool) -> list[normalizers.Normalizer]:
    """Return what SigLIP does before all else: no capitals, no punctuation of ASCII, single spaces."""
    punctuation = Regex(f'[{re.escape(string.punctuation)}]')
    steps = [normalizers.Replace(punctuation, ''), _SINGLE_SPACES]
    return [*[normalizers.Lowercase()] * lower_case, *steps, normalizers.Strip()]


def _normalize_first(tokenizer: Tokenizer, *steps: normalizers.Normalizer) -> None:
    """Put normalizers before a tokenizer's own, unless it begins with them."""
    own = [tokenizer.normalizer] if tokenizer.normalizer else []
    made = normalizers.Sequence([*steps, *own])
    if own and _steps_of(own[0])[: len(steps)] == _steps_of(made)[: len(steps)]:
        return
    tokenizer.normalizer = made


def _steps_of(normalizer: normalizers.Normalizer) -> list[Any]:
    """Return what a normalizer does, one after the other, as JSON has it."""
    empty = Tokenizer(models.BPE())
    empty.normalizer = normalizer
    said = json.loads(empty.to_str())['normalizer']
    return said.get('normalizers', [said])


def parse_tokenizer(path: Path, text: str) -> Tokenizer:
    """Make the tokenizer of a tokenizer.json's text, without its padding and truncation.

    Raises CheckpointError, which names `path`, for what is malformed or out of bounds.
    """
    check_tokenizer(path, parse_json(path, text, 'the tokenizer'))
    with _library(path, 'expected a tokenizer that works'):
        tokenizer = Tokenizer.from_str(text)
        check_added_tokens(path, tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # What is wrong in its rules for pairs and unknown words shows only in use.
        tokenizer.decode(tokenizer.encode('a').ids)
        tokenizer.encode('a', '\uffff')
    return tokenizer


@contextlib.contextmanager
def _library(path: Path, expected: str) -> Iterator[None]:
    """Make a CheckpointError of all that the tokenizers library raises."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, CheckpointError):
        raise
    except BaseException as error:  # Its panics are not even an Exception.
        fail(path, f'{expected}, found: {error}')


def _read_gpt2(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Make a byte-level BPE of vocab.json and merges.txt."""
    settings = _read_settings(folder, config, 'GPT2Tokenizer', _GPT2)
    tokenizer = _read_bpe(folder, settings)
    add_space = settings['add_prefix_space']
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read_clip(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Make a BPE of lower-case words, whose last token has a mark of its own, between two special tokens."""
    settings = _read_settings(folder, config, 'CLIPTokenizer', _CLIP)
    tokenizer = _read_bpe(
        folder, settings, end_of_word_suffix=_END_OF_WORD, unk_token=settings['unk_token']
    )
    _work_as_clip(tokenizer, settings)
    return tokenizer


def _work_as_clip(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Do as transformers' CLIPTokenizer around a tokenizer's vocabulary, whatever its file says."""
    spaces = normalizers.Replace(Regex(r'\s+'), ' ')
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), 'removed', invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(_END_OF_WORD, ' ')]
    )
    begin, end = settings['bos_token'], settings['eos_token']
    begin_id, end_id = tokenizer.token_to_id(begin), tokenizer.token_to_id(end)
    if begin_id is not None and end_id is not None:
        tokenizer.post_processor = processors.RobertaProcessing(
            (end, end_id), (begin, begin_id), trim_offsets=False, add_prefix_space=False
        )


def _read_bpe(folder: Path, settings: Mapping[str, Any], **options: Any) -> Tokenizer:
    """Make a BPE of vocab.json and merges.txt with its special tokens."""
    path = folder / 'vocab.json'
    vocabulary = parse_json(path, _read_text(path), 'the file')
    check_vocabulary(path, vocabulary)
    special = _special_tokens(path, settings, vocabulary)
    merges = _read_merges(folder / 'merges.txt', len(vocabulary))
    with _library(folder / 'merges.txt', 'expected merges of tokens in vocab.json'):
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, **options))
    tokenizer.add_special_tokens(special)
    return tokenizer


def _read_merges(path: Path, tokens: int) -> list[tuple[str, str]]:
    text = _read_text(path)
    check_merges(path, text.count('\n'), tokens)
    lines = text.split('\n')
    pairs = [line.split(' ') for line in lines if line and not line.startswith('#version')]
    for pair in pairs:
        if len(pair) != 2 or '' in pair:
            fail(path, f'expected two tokens on each line, found {" ".join(pair)!r}')
    return [(left, right) for left, right in pairs]


def _read_bert(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Make a WordPiece of vocab.txt, with the special tokens that begin and end a text."""
    path = folder / 'vocab.txt'
    settings = _read_settings(folder, config, 'BertTokenizer', _BERT)
    lines = _read_text(path).removesuffix('\n').split('\n')
    vocabulary = {token: i for i, token in enumerate(lines)}
    check_vocabulary(path, vocabulary)
    special = _special_tokens(path, settings, vocabulary)
    begin, end = settings['cls_token'], settings['sep_token']
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=settings['unk_token']))
    tokenizer.normalizer = _bert_normalizer(settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    with _library(path, 'expected special tokens to put around a text'):
        tokenizer.post_processor = _bert_template(begin, vocabulary[begin], end, vocabulary[end])
    tokenizer.add_special_tokens(special)
    return tokenizer


def _read_siglip(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Make a unigram tokenizer of spiece.model, with the special token that ends a text."""
    settings = _read_settings(path.parent, config, 'SiglipTokenizer', _SIGLIP)
    _check_size(path)
    with _library(path, 'expected a tokenizer that works'):
        tokenizer = read_sentencepiece(path, path.read_bytes())
    vocabulary = tokenizer.get_vocab()
    special = _special_tokens(path, settings, vocabulary)
    end = settings['eos_token']
    with _library(path, 'expected a special token to put after a text'):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=['$A', end],
            pair=['$A', end, '$B', end],
            special_tokens=[(end, vocabulary[end])],
        )
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=True, rstrip=True, normalized=False) for token in special]
    )
    return tokenizer


def _bert_normalizer(settings: Mapping[str, Any]) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        lowercase=settings['do_lower_case'],
        strip_accents=settings['strip_accents'],
        handle_chinese_chars=settings['tokenize_chinese_chars'],
    )


def _bert_template(begin: str, begin_id: int, end: str, end_id: int) -> processors.PostProcessor:
    """Put special tokens around a text, and between two."""
    return processors.TemplateProcessing(
        single=[begin, '$A', end],
        pair=[begin, '$A', end, '$B:1', f'{end}:1'],
        special_tokens=[(begin, begin_id), (end, end_id)],
    )


def _settings_of(
    path: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `defaults`, changed by what tokenizer_config.json says, each of its type."""
    given = {name: _content(value) for name, value in config.items() if value is not None}
    settings = {name: given.get(name, value) for name, value in defaults.items()}
    for name, value in settings.items():
        kind = str if name.endswith('_token') else bool
        if value is not None and type(value) is not kind:
            fail(path, f'expected {name} of type {kind.__name__}, found {value!r}')
    return settings


def _read_settings(
    folder: Path, config: Mapping[str, Any], kind: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `defaults`, changed by what tokenizer_config.json says; what cannot be followed fails."""
    path = folder / 'tokenizer_config.json'
    given = {name: _content(value) for name, value in config.items() if value is not None}
    if given.get('tokenizer_class', kind) not in (kind, f'{kind}Fast'):
        fail(path, f'expected tokenizer_class {kind}, found {given["tokenizer_class"]!r}')
    for name, only in _ONLY.items():
        if bool(given.get(name, only)) != only:
            fail(path, f'expected {name} {"on" if only else "off"}, found {given[name]!r}')
    settings = _settings_of(path, config, defaults)
    added = given.get('added_tokens_decoder', {})
    added = [_content(token) for token in added.values()] if isinstance(added, dict) else [added]
    if unknown := [token for token in added if token not in settings.values()]:
        fail(path, f'expected no added tokens but the special ones, found {unknown}')
    if (folder / 'added_tokens.json').is_file():
        fail(folder / 'added_tokens.json', 'expected added tokens in a tokenizer.json alone')
    return settings


def _content(value: Any) -> Any:
    """Return the text of a token that may be written as an object with its properties."""
    return value['content'] if isinstance(value, dict) and 'content' in value else value


def special_token(config: Mapping[str, Any], name: str, usual: str) -> str:
    """Return a special token that a tokenizer_config.json names, the usual one if it names none."""
    found = _content(config.get(name))
    return found if isinstance(found, str) else usual


def _special_tokens(
    path: Path, settings: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> list[str]:
    """Return the special tokens in `settings`, by id; all must be in the vocabulary."""
    special = {token for name, token in settings.items() if name.endswith('_token')}
    if missing := sorted(special - set(vocabulary)):
        fail(path, f'expected the special tokens among its own, found no {missing}')
    return sorted(special, key=lambda token: vocabulary[token])


def _read_text(path: Path) -> str:
    """Read a file's text with '\\n' for every end of a line."""
    _check_size(path)
    try:
        return path.read_text('utf-8')
    except UnicodeDecodeError as error:
        fail(path, f'expected text in UTF-8, found byte {error.start} that is not')


def _check_size(path: Path) -> None:
    if not path.is_file():
        fail(path, 'expected this file beside the others of its tokenizer, found none')
    if path.stat().st_size > MAX_BYTES:
        fail(path, f'expected at most {MAX_BYTES} bytes, found {path.stat().st_size}')
