"""Routing telemetry: its numbers against a plain loop over positions, what it counts, and what it costs when off."""

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_models import IMAGE_TOKEN, LLAVA_TARGETS, enable_checkpointing
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llava_teamlora import TeamLoraConfig
from llava_teamlora.tuners.routed import (
    GroupRouting,
    LayerRouting,
    RoutingRecord,
    RoutingTelemetry,
    record_routing,
    routed_layers,
)


def by_hand(records: list[RoutingRecord], positions: list[list[tuple[int, int]]]) -> GroupRouting:
    """The statistics of one layer over the passes' chosen positions, one position after the other in float64."""
    omegas, phis, entropies, choices = [], [], [], []
    for record, chosen in zip(records, positions, strict=True):
        for b, t in chosen:
            scores = [math.exp(value) for value in record.logits[b, t].double().tolist()]
            phi = [score / sum(scores) for score in scores]
            phis.append(phi)
            omegas.append(record.participation[b, t].double().tolist())
            entropies.append(-sum(p * math.log(p) for p in phi))
            choices.append(phi.index(max(phi)))
    n, k = len(phis), len(phis[0])

    def mean(values: list[float]) -> float:
        return sum(values) / n

    means = [mean([omega[i] for omega in omegas]) for i in range(k)]
    load = tuple(choices.count(i) / n for i in range(k))
    return GroupRouting(
        count=n,
        participation_mean=tuple(means),
        participation_std=tuple(math.sqrt(mean([(omega[i] - means[i]) ** 2 for omega in omegas])) for i in range(k)),
        shapley_mean=tuple(mean([phi[i] for phi in phis]) for i in range(k)),
        entropy=mean(entropies),
        entropy_normalized=mean(entropies) / math.log(k),
        load=load,
        dead=tuple(i for i in range(k) if load[i] < 0.01 / k),
    )


def flat(routing: list[LayerRouting]) -> dict[str, list[float]]:
    """Every number, to compare two results."""
    found = {}
    for row in routing:
        for name, group in row.groups.items():
            values: list[Any] = [group.count, group.entropy, group.entropy_normalized]
            for part in (group.participation_mean, group.participation_std, group.shapley_mean, group.load, group.dead):
                values += [len(part), *part]
            found[f"{row.layer} {row.adapter} {name}"] = [float(value) for value in values]
        found[f"{row.layer} {row.adapter} M"] = (
            [row.interaction.drift, row.interaction.condition] if row.interaction else []
        )
    return found


def assert_same(first: list[LayerRouting], second: list[LayerRouting], tolerance: float = 1e-9) -> None:
    one, two = flat(first), flat(second)
    assert one.keys() == two.keys() and one
    for name, values in one.items():
        assert values == pytest.approx(two[name], rel=tolerance, abs=tolerance), name


def split(ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A mask that leaves out the last two positions of the second row, and two groups that mind no mask."""
    valid = torch.ones_like(ids)
    valid[1, 5:] = 0
    even = (ids % 2 == 0).clone()
    return valid, {"even": even, "odd": ~even}


def chosen(members: Tensor) -> list[tuple[int, int]]:
    return [(int(b), int(t)) for b, t in members.nonzero()]


@pytest.mark.parametrize("fields", [{}, {"router_hidden": 3}, {"num_experts": 1}], ids=str)
def test_numbers_against_a_loop_over_positions(make_random: Any, ids: Tensor, fields: dict) -> None:
    model = make_random(**fields)
    telemetry = RoutingTelemetry(model, ("even", "odd", "nobody"))
    passes = [ids, ids.flip(1), ids.flip(0)]
    recorded: dict[nn.Module, list[RoutingRecord]] = {layer: [] for layer in routed_layers(model)}
    members: dict[str, list] = {"all": [], "even": [], "odd": []}
    for tokens in passes:
        valid, groups = split(tokens)
        with record_routing(model) as records, telemetry.observe(valid, groups):
            model(input_ids=tokens, attention_mask=valid)
        for record in records:
            recorded[record.layer].append(record)
        members["all"].append(chosen(valid))
        for name in groups:
            members[name].append(chosen(groups[name] & (valid != 0)))
    routing = telemetry.collect()
    assert len(routing) == len(recorded) == 6
    assert routing[0].layer.endswith("layers.0.mlp.gate_proj") and routing[0].adapter == "default"
    for row, records in zip(routing, recorded.values(), strict=True):
        assert row.k == fields.get("num_experts", 3) and list(row.groups) == ["all", "even", "odd"]
        for name, group in row.groups.items():
            if row.k == 1:
                assert math.isnan(group.entropy_normalized) and group.entropy == 0 and group.load == (1.0,)
                continue
            expected = LayerRouting(
                row.layer, row.adapter, row.k, row.interaction, {name: by_hand(records, members[name])}
            )
            assert_same([LayerRouting(row.layer, row.adapter, row.k, row.interaction, {name: group})], [expected], 1e-7)
            assert group.dead == expected.groups[name].dead
    assert telemetry.collect() == []  # a new window has begun


def test_dead_experts(make_random: Any, ids: Tensor) -> None:
    """Three experts, one of which no position prefers, and one that has 2 of 14 positions."""
    model = make_random()
    layer = routed_layers(model)[0]
    logits = torch.zeros(2, 7, 3)
    logits[..., 0] = 1.0
    logits[0, :2, 2] = 2.0
    for dead_below, dead in ((0.01, (1,)), (0.5, (1, 2)), (0.4, (1,)), (0.0, ())):
        telemetry = RoutingTelemetry(model, dead_below=dead_below)
        record = RoutingRecord(layer, "default", logits, logits.softmax(-1))
        telemetry._add([record], telemetry._masks(torch.ones(2, 7), {}))
        (row,) = telemetry.collect()
        assert row.groups["all"].load == pytest.approx((12 / 14, 0, 2 / 14)) and row.groups["all"].dead == dead


def test_padding_changes_no_number(make_random: Any, ids: Tensor) -> None:
    model, found = make_random(), []
    valid, groups = split(ids)
    for filling in (0, 5, 40):
        telemetry = RoutingTelemetry(model, ("even", "odd"))
        tokens = ids.masked_fill(valid == 0, filling)
        with telemetry.observe(valid, groups):
            model(input_ids=tokens, attention_mask=valid)
        found.append(telemetry.collect())
    assert found[0] == found[1] == found[2]
    # Nor does padding that is not even a number.
    telemetry, layer = RoutingTelemetry(model), routed_layers(model)[0]
    logits = torch.randn(2, 7, 3).masked_fill((valid == 0).unsqueeze(-1), math.nan)
    telemetry._add([RoutingRecord(layer, "default", logits, logits)], telemetry._masks(valid, {}))
    (row,) = telemetry.collect()
    assert row.groups["all"].count == 12 and math.isfinite(sum(row.groups["all"].participation_std))


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_recomputation_counts_once(make_random: Any, ids: Tensor, reentrant: bool | None) -> None:
    valid, groups = split(ids)
    plain, model = make_random(), make_random().train()
    if reentrant is not None:
        enable_checkpointing(model, reentrant)
    found = []
    for watched in (plain, model):
        telemetry = RoutingTelemetry(watched, ("even", "odd"))
        for _ in range(2):
            with telemetry.observe(valid, groups):  # the backward pass inside, as a careless user would have it
                watched(input_ids=ids, attention_mask=valid, labels=ids).loss.backward()
        found.append(telemetry.collect())
    assert_same(*found, tolerance=1e-6)
    assert found[1][0].groups["all"].count == 24


def test_parts_add_up_to_the_whole(make_random: Any, ids: Tensor) -> None:
    """Micro-batches of one process, and processes of one row each, give what one batch gives."""
    model = make_random()
    valid, groups = split(ids)

    def watch(telemetry: RoutingTelemetry, rows: slice) -> None:
        with telemetry.observe(valid[rows], {name: members[rows] for name, members in groups.items()}):
            model(input_ids=ids[rows], attention_mask=valid[rows])

    whole, parts, first, second = (RoutingTelemetry(model, ("even", "odd")) for _ in range(4))
    watch(whole, slice(None))
    watch(parts, slice(0, 1))
    watch(parts, slice(1, 2))
    watch(first, slice(0, 1))
    watch(second, slice(1, 2))
    sent: list[Tensor] = []
    second.collect(lambda flat: sent.append(flat.clone()) or flat)
    expected = whole.collect()
    assert_same(parts.collect(), expected, 1e-6)
    assert_same(first.collect(lambda flat: flat + sent[0]), expected, 1e-6)
    # A process without a single position takes part all the same.
    assert_same(RoutingTelemetry(model, ("even", "odd")).collect(lambda flat: flat + sent[0]), second_alone(model, ids))


def second_alone(model: nn.Module, ids: Tensor) -> list[LayerRouting]:
    valid, groups = split(ids)
    telemetry = RoutingTelemetry(model, ("even", "odd"))
    with telemetry.observe(valid[1:], {name: members[1:] for name, members in groups.items()}):
        model(input_ids=ids[1:], attention_mask=valid[1:])
    return telemetry.collect()


def test_interaction_drift_and_a_state_that_survives(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    telemetry = RoutingTelemetry(model)
    before = [layer.linear("interaction", "default").weight.detach().clone().double() for layer in routed_layers(model)]
    with telemetry.observe(torch.ones_like(ids)):
        model(input_ids=ids)
    with torch.no_grad():
        for layer in routed_layers(model):
            layer.linear("interaction", "default").weight += torch.randn(3, 3)
    state = json.loads(json.dumps(telemetry.state()))
    resumed = RoutingTelemetry(model)  # knows only the M of now
    resumed.load_state(state)
    for later in (telemetry, resumed):
        with later.observe(torch.ones_like(ids)):
            model(input_ids=ids)
    routing = telemetry.collect()
    assert resumed.collect() == routing and routing[0].groups["all"].count == 28
    for row, layer, start in zip(routing, routed_layers(model), before, strict=True):
        now = layer.linear("interaction", "default").weight.detach().double()
        drift = math.sqrt(sum(float(d) ** 2 for d in (now - start).flatten())) / math.sqrt(float((start**2).sum()))
        values = torch.linalg.eigvalsh(now.T @ now)
        assert row.interaction is not None
        assert row.interaction.drift == pytest.approx(drift) and drift > 0.1
        assert row.interaction.condition == pytest.approx(math.sqrt(values[-1] / values[0]), rel=1e-5)
    others = RoutingTelemetry(model)
    others.load_state(state, sums=False)
    assert others.collect() == []
    with pytest.raises(ValueError, match="other layers, adapters or groups"):
        RoutingTelemetry(model, ("even",)).load_state(state)


def test_a_singular_interaction_matrix_and_none(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    telemetry = RoutingTelemetry(model)
    nn.init.zeros_(routed_layers(model)[0].linear("interaction", "default").weight)
    with telemetry.observe(torch.ones_like(ids)):
        model(input_ids=ids)
    interaction = telemetry.collect()[0].interaction
    assert interaction is not None and interaction.condition == math.inf and interaction.drift == pytest.approx(1.0)
    model = make_random(interaction_init="identity", train_interaction=False)
    telemetry = RoutingTelemetry(model)
    with telemetry.observe(torch.ones_like(ids)):
        model(input_ids=ids)
    row = telemetry.collect()[0]
    assert row.interaction is None
    assert row.groups["all"].participation_mean == pytest.approx(row.groups["all"].shapley_mean)


class CountOperations(TorchDispatchMode):
    """Counts every operation that reaches a backend, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, ids: Tensor) -> Counter[str]:
    model.zero_grad()
    with CountOperations() as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.counts


def test_off_is_free(make_random: Any, ids: Tensor) -> None:
    """Not an operation, a hook or a listener more than without telemetry; on, it changes no output."""
    model = make_random().train()
    without = operations(model, ids)
    telemetry = RoutingTelemetry(model, ("even", "odd"))
    assert operations(model, ids) == without
    expected = model(input_ids=ids).logits
    with telemetry.observe(*split(ids)):
        added = operations(model, ids) - without
        assert added["aten::_log_softmax"] == 6
        assert not added.keys() & {"aten::_local_scalar_dense", "aten::nonzero"}  # none waits for the device
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert operations(model, ids) == without
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(layer.routing_sinks == () for layer in routed_layers(model))


def test_a_pass_that_fails_counts_nothing(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    telemetry = RoutingTelemetry(model)
    with pytest.raises((IndexError, RuntimeError)), telemetry.observe(torch.ones_like(ids)):
        model(input_ids=ids + 1000)
    assert telemetry.collect() == [] and all(layer.routing_sinks == () for layer in routed_layers(model))


def test_several_adapters_are_kept_apart(make_random: Any, ids: Tensor) -> None:
    model = make_random()
    model.add_adapter("other", TeamLoraConfig(r=2, num_experts=2))
    telemetry = RoutingTelemetry(model.get_base_model())
    counts = []
    for active in (["default"], ["default", "other"]):
        model.base_model.set_adapter(active)
        with telemetry.observe(torch.ones_like(ids)):
            model(input_ids=ids)
        counts.append({(row.adapter, row.k, row.groups["all"].count) for row in telemetry.collect()})
    assert counts == [{("default", 3, 14)}, {("default", 3, 14), ("other", 2, 14)}]
    model.add_adapter("late", TeamLoraConfig(r=2))
    model.set_adapter("late")
    with pytest.raises(ValueError, match="adapter 'late' was added after"), telemetry.observe(torch.ones_like(ids)):
        model(input_ids=ids)


def test_vision_tower_counts_its_own_positions(make_llava: Any, ids: Tensor) -> None:
    ids[:, 1:5] = IMAGE_TOKEN
    image = ids == IMAGE_TOKEN
    model = get_peft_model(make_llava(), TeamLoraConfig(r=2, target_modules=rf"{LLAVA_TARGETS}|.*vision_tower.*fc1"))
    telemetry = RoutingTelemetry(model, ("image", "text"))
    valid = torch.ones_like(ids)
    valid[:, 6:] = 0
    with telemetry.observe(valid, {"image": image, "text": ~image}):
        model(input_ids=ids, attention_mask=valid, pixel_values=torch.randn(2, 3, 8, 8))
    counts = {
        "vision_tower" in row.layer: {name: group.count for name, group in row.groups.items()}
        for row in telemetry.collect()
    }
    assert counts == {True: {"all": 10}, False: {"all": 12, "image": 8, "text": 4}}


def test_mistakes_are_told(make_random: Any, make_llama: Any, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="has no routed layer"):
        RoutingTelemetry(make_llama())
    model = make_random()
    with pytest.raises(ValueError, match="must differ from each other and from 'all'"):
        RoutingTelemetry(model, ("a", "all"))
    telemetry = RoutingTelemetry(model, ("a",))
    for valid, groups, message in (
        (ids, {"b": ids}, "group 'b' was not declared; declared are \\['a'\\]"),
        (ids, {"a": ids[:, 1:]}, r"group 'a' has shape \(2, 6\), valid has \(2, 7\)"),
        (ids[0], {}, r"valid must be \[B, T\], got shape \(7,\)"),
    ):
        with pytest.raises(ValueError, match=message), telemetry.observe(valid, groups):
            pass
