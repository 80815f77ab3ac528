# ruff: noqa: TID253
import json

import numpy as np
import pytest
import torch

from mlserve_cli.errors import StepError
from mlserve_cli.graph import from_torch
from mlserve_cli.prune import blocks, channels, heads, masks, tracing
from mlserve_cli.prune.network import Survey, prune
from mlserve_cli.training import history, size
from tests.unit.prune import architectures as nets

EVERY = (*nets.PICTURES, *nets.TRANSFORMERS)


def named(kind):
    return kind.__name__


def silent(survey, pruned):
    """The whole network with the same channels and heads at nothing, by a graph of its own."""
    masked = tracing.duplicate(survey.module)
    traced = tracing.duplicate(survey.module)
    for cut in pruned.head_cuts:
        heads.silence(masked, cut)
    layers = dict(traced.named_modules())
    with tracing.graph(traced, survey.example) as graph:
        for cut in pruned.cuts:
            layer = layers[cut.layer]
            function = graph.get_pruner_of_module(layer).prune_out_channels
            group = graph.get_pruning_group(layer, function, list(cut.channels))
            masks.blank(graph, group, traced, masked)
    return masked


@pytest.mark.parametrize("ratio", [0.3, 0.7])
@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_the_pruned_network_answers_as_the_silenced_one_on_other_rows(kind, ratio):
    network, given = nets.build(kind), nets.example(kind)
    survey = Survey.of(network, given)
    pruned = survey.prune(ratio)
    other = nets.example(kind, rows=7)
    expected = tracing.answers(silent(survey, pruned), other)
    (found,) = tracing.answers(pruned.module, other)
    assert torch.allclose(found, expected[0], atol=1e-4)
    assert not torch.allclose(found, tracing.answers(network, other)[0], atol=1e-3)


@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_half_of_the_channels_and_heads_leaves_a_quarter_to_half_of_the_multiplications(kind):
    """Convolutions shrink on both sides; in a transformer one side, the stream, stays."""
    network, given = nets.build(kind), nets.example(kind)
    pruned = prune(network, given, ratio=0.5)
    whole, now = size.measure(network, given), size.measure(pruned.module, given)
    assert not [name for name in pruned.left if name.endswith(("one", "grouped", "up", "linear1"))]
    if kind in nets.TRANSFORMERS:
        assert now.macs / whole.macs == pytest.approx(0.5, abs=0.03)
    else:
        assert 0.2 < now.macs / whole.macs < 0.4


@pytest.mark.parametrize("kind", EVERY, ids=named)
def test_the_history_rebuilds_it_from_a_fresh_network_and_onnx_answers_alike(kind, tmp_path):
    import onnxruntime

    network, given = nets.build(kind), nets.example(kind)
    found = blocks.find(network, given)
    pruned = prune(network, given, ratio=0.5, drop_blocks=1 if found else 0)
    assert len(pruned.dropped) == (1 if found else 0)
    entry = json.loads(json.dumps(pruned.entry()))
    fresh, state = kind().eval(), pruned.module.state_dict()
    history.replay(fresh, [entry], state)
    fresh.load_state_dict(state)
    other = nets.example(kind, rows=5)
    (expected,) = tracing.answers(pruned.module, other)
    assert torch.equal(tracing.answers(fresh, other)[0], expected)
    names = ("input_ids", "attention_mask") if kind is nets.Bert else ("image",)
    feed = {name: each.numpy() for name, each in zip(names, other, strict=True)}
    from_torch.write_onnx(fresh, feed, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (answer,) = session.run(None, feed)
    assert np.allclose(answer, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", [nets.Residual, nets.Encoder, nets.Bert], ids=named)
def test_pruning_again_builds_on_the_first_history(kind):
    network, given = nets.build(kind), nets.example(kind)
    first = prune(network, given, ratio=0.3, drop_blocks=1)
    second = prune(first.module, given, ratio=0.4)
    fresh, state = kind().eval(), second.module.state_dict()
    history.replay(fresh, [first.entry(), second.entry()], state)
    fresh.load_state_dict(state)
    (expected,) = tracing.answers(second.module, given)
    assert torch.equal(tracing.answers(fresh, given)[0], expected)


def test_torch_s_encoder_takes_masks_and_padding_after_its_heads_are_fewer():
    """Against the whole layer with the same heads silent; padded batches are nested in torch's."""
    network = nets.build(nets.Encoder).encoder
    (found, *_) = heads.find(network)
    cut = heads.HeadCut(found, (1, 2))
    masked, smaller = tracing.duplicate(network), tracing.duplicate(network)
    heads.silence(masked, cut)
    masked.use_nested_tensor = False  # torch itself warns of nested tensors
    assert heads.take_out(smaller, cut)
    assert not smaller.use_nested_tensor
    x = torch.rand(3, 6, 32)
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    causal = torch.nn.Transformer.generate_square_subsequent_mask(6)
    for given in ({"src_key_padding_mask": padding}, {"mask": causal}, {}):
        with torch.no_grad():
            expected, answer = masked(x, **given), smaller(x, **given)
        seen = ~padding if "src_key_padding_mask" in given else torch.ones_like(padding)
        assert torch.allclose(answer[seen], expected[seen], atol=1e-5), given


def test_the_least_important_head_goes():
    network = nets.build(nets.Bert)
    layer = network.encoder.encoder.layer[1].attention
    with torch.no_grad():
        for linear in (layer.self.query, layer.self.key, layer.self.value):
            linear.weight[16:24] *= 1e-3
        layer.output.dense.weight[:, 16:24] *= 1e-3
    pruned = prune(network, nets.example(nets.Bert), ratio=0.25)
    (cut,) = [cut for cut in pruned.head_cuts if ".layer.1." in cut.attention.name]
    assert cut.heads == (2,)


def test_heads_may_have_a_ratio_of_their_own_and_none_may_go():
    given = nets.example(nets.Fused)
    kept = prune(nets.build(nets.Fused), given, ratio=0.5, head_ratio=0.0)
    assert not kept.head_cuts
    assert kept.module.layers[0].up.out_features == 128
    fewer = prune(nets.build(nets.Fused), given, ratio=0.5, head_ratio=0.75)
    assert [layer.num_heads for layer in fewer.module.layers] == [1, 1, 1]


class Counting(nets.Fused):
    """Its forward() says the width of the heads' answers as a number."""

    class Layer(nets.Fused.Layer):
        def forward(self, x):
            q, k, v = (
                each.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
                for each in self.qkv(self.norm1(x)).chunk(3, dim=-1)
            )
            mixed = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
            x = x + self.proj(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.down(torch.relu(self.up(self.norm2(x))))


def test_attention_that_counts_its_heads_in_forward_is_left_and_said():
    pruned = prune(nets.build(Counting), nets.example(Counting), ratio=0.5)
    assert not pruned.head_cuts
    assert pruned.left["layers.0"] == "its forward() counts on the number of its heads"
    assert {cut.layer for cut in pruned.cuts} == {"layers.0.up", "layers.1.up", "layers.2.up"}


def test_blocks_that_add_to_their_input_are_found_and_no_others():
    found = {
        kind: [block.name for block in blocks.find(nets.build(kind), nets.example(kind))]
        for kind in (nets.Residual, nets.Depthwise, nets.Concatenated, nets.Encoder)
    }
    assert found == {
        nets.Residual: ["blocks.0", "blocks.1", "blocks.3"],
        nets.Depthwise: ["blocks.0", "blocks.2"],
        nets.Concatenated: [],
        nets.Encoder: ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"],
    }


def test_the_block_that_does_least_is_dropped_and_the_network_stays_as_it_was():
    network, given = nets.build(nets.Residual), nets.example(nets.Residual)
    with torch.no_grad():
        network.blocks[1].norm2.weight *= 1e-3
        network.blocks[1].norm2.bias *= 1e-3
        network.blocks[1].norm2.running_mean *= 0
    before = tracing.answers(network, given)[0]
    pruned = prune(network, given, ratio=0.5, drop_blocks=1)
    assert list(pruned.dropped) == ["blocks.1"]
    assert torch.equal(tracing.answers(network, given)[0], before)
    plain = plain_network(network, given)
    assert blocks.difference([before], tracing.answers(plain, given)) < 0.01


def plain_network(network, given):
    made = tracing.duplicate(network)
    for block in blocks.least_important(network, given, blocks.find(network, given), 1)[0]:
        history.skip(made, block.name, block.returns)
    return made


def test_more_blocks_than_can_go_are_refused():
    with pytest.raises(StepError, match="5 blocks should go, and 3 can"):
        prune(nets.build(nets.Residual), nets.example(nets.Residual), ratio=0.5, drop_blocks=5)


def test_a_first_encoder_layer_that_torch_looks_into_is_left_and_said():
    network, given = nets.build(nets.Encoder), nets.example(nets.Encoder)
    dropped, left = blocks.least_important(network, given, blocks.find(network, given), 3)
    assert [block.name for block in dropped] != []
    assert "encoder.layers.0" not in [block.name for block in dropped]
    assert left == {"encoder.layers.0": "the network does not run without it"}


@pytest.mark.parametrize("kind", nets.PICTURES, ids=named)
@pytest.mark.parametrize("importance", ["l1", "taylor", "bn-scale"])
def test_every_importance_prunes_every_convolutional_network(kind, importance):
    network, given = nets.build(kind), nets.example(kind)

    def gradients(module):
        module.zero_grad(set_to_none=True)
        module(*given).square().mean().backward()

    pruned = prune(
        network,
        given,
        ratio=0.5,
        importance=importance,
        gradients=gradients if importance == "taylor" else None,
    )
    assert pruned.cuts
    assert pruned.module(*nets.example(kind, rows=3)).shape == (3, 10)


def test_what_the_loss_does_not_move_goes_first_by_taylor_though_its_weights_are_large():
    network, given = nets.build(nets.Residual), nets.example(nets.Residual)
    with torch.no_grad():
        network.blocks[0].norm1.bias[:8] = -100  # dead behind the ReLU, whatever is before
        network.blocks[0].one.weight[:8] *= 10

    def gradients(module):
        module.zero_grad(set_to_none=True)
        module(*given).square().mean().backward()

    by_size = prune(network, given, ratio=0.5)
    by_loss = prune(network, given, ratio=0.5, importance="taylor", gradients=gradients)
    cuts = [
        next(cut.channels for cut in each.cuts if cut.layer == "blocks.0.one")
        for each in (by_size, by_loss)
    ]
    assert cuts[1] == tuple(range(8))
    assert cuts[0] != cuts[1]


def test_ranked_together_layers_lose_what_matters_least_and_never_all():
    network, given = nets.build(nets.Residual), nets.example(nets.Residual)
    with torch.no_grad():
        network.blocks[3].one.weight[1:] *= 1e-3
        network.blocks[3].norm1.weight[1:] *= 1e-3
        network.blocks[3].two.weight[:, 1:] *= 1e-3
    survey = Survey.of(network, given, scope="global")
    stay = {cut.layer: cut.before - len(cut.channels) for cut in survey.prune(0.4).cuts}
    assert stay["blocks.3.one"] == channels.BLOCK
    assert min(stay.values()) >= channels.MULTIPLE
    even = sum(len(cut.channels) for cut in Survey.of(network, given).prune(0.4).cuts)
    ranked = sum(len(cut.channels) for cut in survey.prune(0.4).cuts)
    assert abs(even - ranked) <= 5 * channels.BLOCK
