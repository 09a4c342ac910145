"""Pure losses on [rows, candidates] scores: one value per row, the reduction is the caller's."""

from grkd.losses._correlation import pearson_distance
from grkd.losses._decoupled import decoupled_kl
from grkd.losses._expected_disagreement import expected_disagreement
from grkd.losses._generalized_jsd import forward_kl, generalized_jsd, generalized_jsd_of
from grkd.losses._group_relative import group_relative
from grkd.losses._pair_forms import HARD, MARGIN, PAIR_FORMS, SOFT, PairForm, pair_form
from grkd.losses._plackett_luce import plackett_luce, rankings_jsd
from grkd.losses._relational import relational_angle, relational_distance
from grkd.losses._soft_target import cross_entropy_of, masked_log_softmax, soft_target
from grkd.losses._softmax_pairs import softmax_pairs, voted_softmax_pairs
from grkd.losses._standardized import standardized
from grkd.losses._tiered_plackett_luce import tiered_plackett_luce
from grkd.losses._voted_pairs import voted_pairs
from grkd.losses._weighted_pairs import pair_margins, rank_discount, weighted_pairs
from grkd.losses.checks import Normalize

__all__ = [
    "HARD",
    "MARGIN",
    "PAIR_FORMS",
    "SOFT",
    "Normalize",
    "PairForm",
    "cross_entropy_of",
    "decoupled_kl",
    "expected_disagreement",
    "forward_kl",
    "generalized_jsd",
    "generalized_jsd_of",
    "group_relative",
    "masked_log_softmax",
    "pair_form",
    "pair_margins",
    "pearson_distance",
    "plackett_luce",
    "rank_discount",
    "rankings_jsd",
    "relational_angle",
    "relational_distance",
    "soft_target",
    "softmax_pairs",
    "standardized",
    "tiered_plackett_luce",
    "voted_pairs",
    "voted_softmax_pairs",
    "weighted_pairs",
]
