# ruff: noqa: TID253, N812
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlserve_cli.errors import StepError
from mlserve_cli.training import soft
from mlserve_cli.training.soft import soft_loss

CLASSES = torch.tensor([0, 1, 2, 0])


def task(outputs, targets):
    return F.cross_entropy(outputs, targets)


def test_alpha_nought_is_the_task_alone():
    scores, answer = torch.randn(4, 3), torch.randn(4, 3)
    found = soft_loss(task, temperature=4, alpha=0)(scores, (CLASSES, answer))
    assert torch.allclose(found, task(scores, CLASSES))


def test_alpha_one_is_nothing_where_the_student_answers_as_the_teacher():
    scores = torch.randn(4, 3)
    found = soft_loss(task, temperature=4, alpha=1)(scores, (CLASSES, scores + 5))
    assert float(found) == pytest.approx(0, abs=1e-6)


def test_the_formula_is_that_of_hinton():
    scores, answer = torch.randn(4, 3), torch.randn(4, 3)
    p, q = F.softmax(answer / 2, 1), F.softmax(scores / 2, 1)
    expected = 0.7 * 4 * (p * (p / q).log()).sum(1).mean() + 0.3 * task(scores, CLASSES)
    found = soft_loss(task, temperature=2, alpha=0.7)(scores, (CLASSES, answer))
    assert torch.allclose(found, expected, atol=1e-6)


def test_floating_point_targets_take_the_squared_difference():
    scores, answer = torch.zeros(4, 1), torch.full((4, 1), 2.0)
    loss = soft_loss(lambda a, b: F.mse_loss(a, b), temperature=2, alpha=0.5)
    assert float(loss(scores, (torch.full((4, 1), 1.0), answer))) == 0.5 * 4 + 0.5 * 1


def test_answers_of_another_shape_are_refused_with_both_named():
    loss = soft_loss(task, temperature=2, alpha=0.5)
    with pytest.raises(StepError, match=r"\(4, 3\) and the student \(4, 2\)"):
        loss(torch.randn(4, 2), (CLASSES, torch.randn(4, 3)))


def test_the_teacher_answers_without_gradients_in_eval_mode():
    teacher = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
    inputs = (torch.randn(4, 2),)
    targets, answer = soft.lesson(soft.asked(teacher, kind="fp32"))(inputs, CLASSES)
    assert targets is CLASSES
    assert not answer.requires_grad
    assert torch.allclose(answer, teacher.eval()(*inputs))


def test_embeddings_are_compared_by_their_direction_and_numbers_by_their_size():
    answer = torch.tensor([[1.0, 2.0], [3.0, -1.0]])

    def loss(comparison, scores):
        found = soft.soft_loss(None, temperature=2, alpha=1, comparison=comparison)
        return float(found(scores, ((), answer)))

    assert loss("directions", 5 * answer) == pytest.approx(0, abs=1e-6)
    assert loss("directions", -answer) == pytest.approx(2)
    assert loss("values", answer + 2) == pytest.approx(4)
    assert loss("classes", answer + 2) == pytest.approx(0, abs=1e-6)  # softmax sees no constant


def test_rows_without_targets_have_numbers_for_answers_unless_told_otherwise():
    answer = torch.tensor([[1.0, 2.0]])
    loss = soft.soft_loss(None, temperature=2, alpha=1)
    assert float(loss(answer + 2, ((), answer))) == pytest.approx(4)


def test_rows_without_targets_leave_them_no_share():
    answer = torch.tensor([[1.0, 2.0]])
    loss = soft.soft_loss(None, temperature=2, alpha=0.75)
    with pytest.raises(StepError, match=r"0\.25 of the loss"):
        loss(answer, ((), answer))
