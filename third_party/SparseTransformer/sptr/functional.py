"""The operators on explicit pairs under the name that published code imports them by."""

from sptr.operators import (
    attention_step1,
    attention_step2,
    attention_step2_with_rel_pos_value,
    dot_prod_with_idx,
    dot_prod_with_idx_all,
)

__all__ = [
    "attention_step1",
    "attention_step2",
    "attention_step2_with_rel_pos_value",
    "dot_prod_with_idx",
    "dot_prod_with_idx_all",
]
