"""Published BERTs, by their names at the source, without version and `-uncased`."""

from blox.zoo.catalog.published.row import Published, group

ROWS: tuple[Published, ...] = (
    *group(
        {
            'bert-base': ('bert-base', 'google-bert/bert-base-uncased', 109_482_240),
            'bert-large': ('bert-large', 'google-bert/bert-large-uncased', 335_141_888),
        },
        layout='hf',
        license='apache-2.0',
        paper='arXiv:1810.04805',
        summary='BooksCorpus and English Wikipedia, in lower case',
    ),
    *group(
        {
            'all-minilm-l6': ('minilm-l6', 'sentence-transformers/all-MiniLM-L6-v2', 22_713_216),
            'all-minilm-l12': ('minilm-l12', 'sentence-transformers/all-MiniLM-L12-v2', 33_360_000),
        },
        layout='hf',
        license='apache-2.0',
        paper='arXiv:1908.10084',
        summary='MiniLM, then over a billion pairs of sentences',
    ),
)
