"""Published GPT-2s, by their names at the source."""

from blox.zoo.catalog.published.row import Published, group

ROWS: tuple[Published, ...] = (
    *group(
        {
            'gpt2': ('gpt2', 'openai-community/gpt2'),
            'gpt2-medium': ('gpt2-medium', 'openai-community/gpt2-medium'),
            'gpt2-large': ('gpt2-large', 'openai-community/gpt2-large'),
            'gpt2-xl': ('gpt2-xl', 'openai-community/gpt2-xl'),
        },
        layout='hf',
        license='mit',
        paper='https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf',
        summary='WebText, pages linked from Reddit',
    ),
    *group(
        {
            'distilgpt2': ('distilgpt2', 'distilbert/distilgpt2'),
        },
        layout='hf',
        license='apache-2.0',
        paper='arXiv:1910.01108',
        summary='OpenWebText, distilled from gpt2',
    ),
)
