"""Published GPT-2s, by their names at the source."""

from blox.zoo.catalog.published.row import Published, group

ROWS: tuple[Published, ...] = (
    *group(
        {
            'gpt2': ('gpt2', 'openai-community/gpt2', 124_439_808),
            'gpt2-medium': ('gpt2-medium', 'openai-community/gpt2-medium', 354_823_168),
            'gpt2-large': ('gpt2-large', 'openai-community/gpt2-large', 774_030_080),
            'gpt2-xl': ('gpt2-xl', 'openai-community/gpt2-xl', 1_557_611_200),
        },
        layout='hf',
        license='mit',
        paper='https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf',
        summary='WebText, pages linked from Reddit',
    ),
    *group(
        {
            'distilgpt2': ('distilgpt2', 'distilbert/distilgpt2', 81_912_576),
        },
        layout='hf',
        license='apache-2.0',
        paper='arXiv:1910.01108',
        summary='OpenWebText, distilled from gpt2',
    ),
)
