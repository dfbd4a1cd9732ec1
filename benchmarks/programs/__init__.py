"""The same models in each library, made of the same sizes.

Each module has `versions()` and `build(work, model, sizes)`, which returns a Program or raises
NotImplementedError with what the library lacks. `work` is 'forward', 'step' (AdamW, in float32),
'greedy' or 'sampled' (text); `models.py` says what sizes there are.
"""
