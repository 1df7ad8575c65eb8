"""Cross-entropy losses for JAX: pure functions of arrays, exact to the last bits."""

from xent.losses.binary import binary_cross_entropy, sigmoid_binary_cross_entropy
from xent.losses.binary_focal import sigmoid_focal_loss
from xent.losses.binary_gradients import (
    sigmoid_binary_cross_entropy_fisher_diagonal,
    sigmoid_binary_cross_entropy_gauss_newton_vector_product,
    sigmoid_binary_cross_entropy_gradient,
    sigmoid_binary_cross_entropy_hessian_vector_product,
)
from xent.losses.categorical import softmax_cross_entropy, softmax_cross_entropy_with_integer_labels
from xent.losses.ctc import ctc_loss
from xent.losses.distillation import (
    distillation_jensen_shannon_divergence,
    distillation_kl_divergence,
    distillation_total_variation,
)
from xent.losses.distributions import (
    cross_entropy,
    entropy,
    jensen_shannon_divergence,
    log_likelihood,
    perplexity,
    relative_entropy,
)
from xent.losses.divergences import kl_divergence, kl_divergence_with_log_targets
from xent.losses.focal import poly_loss_cross_entropy, softmax_focal_loss
from xent.losses.fused import Auxiliary, fused_linear
from xent.losses.games import discriminator_loss, minimax_generator_loss, non_saturating_generator_loss
from xent.losses.gradients import (
    softmax_cross_entropy_fisher_diagonal,
    softmax_cross_entropy_gauss_newton_vector_product,
    softmax_cross_entropy_gradient,
    softmax_cross_entropy_hessian_vector_product,
)
from xent.losses.linear import linear_distillation, linear_softmax_cross_entropy
from xent.losses.multitask import uncertainty_weighted_multitask_loss, weighted_multitask_loss
from xent.losses.reductions import mean, sum
from xent.losses.sequence import next_token_cross_entropy, next_token_targets
from xent.losses.sparse_distillation import distillation_top_k

__all__ = [
    "Auxiliary",
    "binary_cross_entropy",
    "cross_entropy",
    "ctc_loss",
    "discriminator_loss",
    "distillation_jensen_shannon_divergence",
    "distillation_kl_divergence",
    "distillation_top_k",
    "distillation_total_variation",
    "entropy",
    "fused_linear",
    "jensen_shannon_divergence",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "linear_distillation",
    "linear_softmax_cross_entropy",
    "log_likelihood",
    "mean",
    "minimax_generator_loss",
    "next_token_cross_entropy",
    "next_token_targets",
    "non_saturating_generator_loss",
    "perplexity",
    "poly_loss_cross_entropy",
    "relative_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_binary_cross_entropy_fisher_diagonal",
    "sigmoid_binary_cross_entropy_gauss_newton_vector_product",
    "sigmoid_binary_cross_entropy_gradient",
    "sigmoid_binary_cross_entropy_hessian_vector_product",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_fisher_diagonal",
    "softmax_cross_entropy_gauss_newton_vector_product",
    "softmax_cross_entropy_gradient",
    "softmax_cross_entropy_hessian_vector_product",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
    "sum",
    "uncertainty_weighted_multitask_loss",
    "weighted_multitask_loss",
]
