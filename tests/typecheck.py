"""The checker that `conftest.py` has jaxtyping put on every function: an int may stand for a float."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
