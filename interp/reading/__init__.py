"""What is there: heads' outputs, the stream, attributions, replies, perplexity."""

from typing import TYPE_CHECKING

from interp.door.faces import hands_on

if TYPE_CHECKING:
    from interp.reading.attribution import (
        Attribution as Attribution,
        attribute as attribute,
        attribute_heads as attribute_heads,
        pull_back as pull_back,
        pull_back_through_norm as pull_back_through_norm,
    )
    from interp.reading.capture import (
        attention_log_probs as attention_log_probs,
        attention_sources as attention_sources,
        head_outputs as head_outputs,
        mean_head_outputs as mean_head_outputs,
    )
    from interp.reading.generation import generate as generate
    from interp.reading.kinds import KINDS as KINDS, head_kinds as head_kinds, kinds_beside as kinds_beside
    from interp.reading.metrics import (
        LogitDifference as LogitDifference,
        Metric as Metric,
        Probability as Probability,
        default_metric as default_metric,
        metric_values as metric_values,
    )
    from interp.reading.perplexity import reply_nll as reply_nll
    from interp.reading.residual import residual_states as residual_states, residual_sums as residual_sums

__getattr__, __dir__, __all__ = hands_on(__name__, __file__)
