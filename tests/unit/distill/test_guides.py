# ruff: noqa: TID253
import pytest
import torch
from torch import nn

from mlserve_cli.distill import features, guides
from mlserve_cli.distill.features import Pair
from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.training import soft
from mlserve_cli.training.loop import train
from mlserve_cli.training.options import TrainingOptions


def pictures(width, *, last=3):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, last),
    )


class Encoder(nn.Module):
    def __init__(self, layers, width, heads=2):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, width, 0.0, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, ids, mask):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask == 0)
        return self.head((x * mask[..., None]).sum(1))


IMAGES = (torch.rand(2, 1, 8, 8),)
TOKENS = (torch.randint(20, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))


def test_layers_of_pictures_are_paired_by_size_the_last_of_each():
    pairs = features.matched(
        features.shapes(pictures(8), IMAGES), features.shapes(pictures(4), IMAGES)
    )
    assert pairs == [Pair("1", "1"), Pair("3", "3")]


def test_blocks_of_sequences_are_spread_over_the_teachers():
    pairs = features.matched(
        features.shapes(Encoder(6, 16).eval(), TOKENS),
        features.shapes(Encoder(2, 8).eval(), TOKENS),
    )
    assert pairs == [Pair("layers.2", "layers.0"), Pair("layers.5", "layers.1")]


def test_a_student_with_nothing_of_a_like_size_is_told_how_to_name_layers():
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(StepError, match="no layer of the student has a size") as caught:
        guides.plan(pictures(8), other, IMAGES, hints="auto", hints_weight=1, attention=0)
    assert "--hints" in caught.value.hint


@pytest.mark.parametrize(
    ("hints", "said"),
    [
        ("1", "'1' is no pair"),
        ("1=", "is no pair"),
        ("1=3", "only their channels may differ"),
        ("nowhere=1", "the teacher has no layer 'nowhere'"),
        ("1=nowhere", "the student has no layer 'nowhere'"),
    ],
)
def test_named_layers_that_do_not_fit_are_refused(hints, said):
    with pytest.raises(StepError, match=said):
        guides.plan(pictures(8), pictures(4), IMAGES, hints=hints, hints_weight=1, attention=0)


def test_the_same_network_has_nothing_to_learn():
    maps, tokens = torch.rand(2, 4, 5, 5), torch.rand(2, 6, 8)
    mask = TOKENS[1]
    assert guides.attention_loss(maps, maps, None) == pytest.approx(0, abs=1e-6)
    assert guides.attention_loss(tokens, tokens, mask) == pytest.approx(0, abs=1e-6)
    assert guides.hint_loss(maps, maps) == 0
    assert guides.hint_loss(torch.zeros_like(maps), maps) == pytest.approx(1)


def test_attention_of_pictures_is_of_places_and_not_of_how_many_channels_there_are():
    maps = torch.rand(2, 4, 5, 5)
    twice = torch.cat([maps, maps], 1)
    assert guides.attention_loss(twice, maps, None) == pytest.approx(0, abs=1e-6)
    assert guides.attention_loss(maps.flip(2), maps, None) > 0.01


def test_tokens_that_are_masked_change_no_relation():
    ours, theirs, mask = torch.rand(2, 6, 8), torch.rand(2, 6, 16), TOKENS[1]
    before = guides.attention_loss(ours, theirs, mask)
    ours[1, 4:] = 100
    assert guides.attention_loss(ours, theirs, mask) == pytest.approx(float(before))
    assert guides.hint_loss(ours, ours + mask[..., None] * 0, mask) == 0


def test_the_last_blocks_queries_keys_and_values_are_compared_where_they_are_to_be_had():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

        def forward(self, x):
            return x + self.value(x) * (self.query(x) * self.key(x)).mean()

    def network(width, count):
        return nn.Sequential(nn.Embedding(20, width), *(Block(width) for _ in range(count)))

    plan = guides.plan(
        network(16, 3), network(8, 1), TOKENS[:1], hints=None, hints_weight=1, attention=1
    )
    assert plan.attention == tuple(
        Pair(f"3.{word}", f"1.{word}") for word in ("query", "key", "value")
    )
    assert not plan.hints


@pytest.mark.parametrize("kind", ["pictures", "tokens"])
def test_a_student_learns_what_the_teacher_holds_inside(kind):
    torch.manual_seed(0)
    if kind == "pictures":
        teacher, student, names = pictures(8), pictures(4), ("image",)
        batches = [((torch.rand(16, 1, 8, 8),), ()) for _ in range(4)]
    else:
        teacher, student, names = Encoder(4, 16).eval(), Encoder(2, 8), ("ids", "mask")
        ids = torch.randint(20, (16, 6))
        batches = [((ids, (ids > 3).long()), ()) for _ in range(4)]
    example = batches[0][0]
    plan = guides.plan(teacher, student, example, hints="auto", hints_weight=5, attention=5)
    options = TrainingOptions(epochs=15, optimizer="adamw", learning_rate=0.01, precision="fp32")
    base = soft.soft_loss(None, temperature=2, alpha=1, comparison="classes")
    with guides.Guided(plan, teacher, student, example, names) as guided:
        asked = guided.answer(soft.asked(teacher, kind="fp32"))
        history = train(
            guided.module,
            lambda: iter(batches),
            options=options,
            loss=guided.loss(base),
            seed=0,
            progress=Silent(),
            teach=soft.lesson(asked),
        )
    assert history.losses[-1] < 0.75 * history.losses[0]
    assert not any(layer._forward_hooks for layer in (*teacher.modules(), *student.modules()))
    assert not any("projector" in name for name in student.state_dict())
