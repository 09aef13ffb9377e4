"""What routed low-rank methods share: router, interaction matrix, product, layer, tuner, losses, telemetry."""

from llava_teamlora.tuners.routed.auxiliary import auxiliary_loss, record_routing
from llava_teamlora.tuners.routed.config import RoutedConfig
from llava_teamlora.tuners.routed.layer import RoutedLinear, RoutingRecord, routed_layers
from llava_teamlora.tuners.routed.losses import balance_loss, router_z_loss
from llava_teamlora.tuners.routed.model import RoutedModel
from llava_teamlora.tuners.routed.product import routed_low_rank
from llava_teamlora.tuners.routed.statistics import GroupRouting, InteractionState, LayerRouting
from llava_teamlora.tuners.routed.steering import steer_experts
from llava_teamlora.tuners.routed.telemetry import RoutingTelemetry

__all__ = [
    "GroupRouting",
    "InteractionState",
    "LayerRouting",
    "RoutedConfig",
    "RoutedLinear",
    "RoutedModel",
    "RoutingRecord",
    "RoutingTelemetry",
    "auxiliary_loss",
    "balance_loss",
    "record_routing",
    "routed_layers",
    "routed_low_rank",
    "router_z_loss",
    "steer_experts",
]
