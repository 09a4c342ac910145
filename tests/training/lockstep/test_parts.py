"""What lock-step training is made of: batches on the device, optimisers, learning rates."""

import pytest
import torch
from torch.nn import functional

from grkd.training.lockstep.batches import DeviceBatch, DeviceBatches, DeviceExamples
from grkd.training.lockstep.optimizers import AdamW, Sgd, learning_rates


@pytest.fixture
def examples() -> DeviceExamples:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (50, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return DeviceExamples(inputs=images, labels=torch.randint(4, (50,), generator=generator))


def test_crops_and_flips_are_those_of_the_padded_image() -> None:
    """Every augmented image is one of the 9 x 9 x 2 that can be cut by hand, its labels and scores go with it."""
    images = torch.arange(6 * 3 * 5 * 5, dtype=torch.uint8).view(6, 3, 5, 5)
    examples = DeviceExamples(inputs=images, labels=torch.arange(6), teacher_scores=torch.arange(6.0)[:, None])
    batches = DeviceBatches(examples, batch_size=4, augment=True, seed=1)
    padded = functional.pad(images, [4] * 4).float() / 127.5 - 1
    seen, kinds = set(), set()
    for _ in range(12):
        for batch in batches.epoch():
            assert batch.inputs.shape == (4, 3, 5, 5)
            for image, label, score in zip(batch.inputs, batch.labels, batch.teacher_scores, strict=True):
                made = {
                    (down, right, flip): cut.flip(-1) if flip else cut
                    for down in range(9)
                    for right in range(9)
                    for flip in (False, True)
                    for cut in [padded[int(label), :, down : down + 5, right : right + 5]]
                }
                matches = [move for move, cut in made.items() if torch.equal(cut, image)]
                assert matches
                assert score.item() == label.item()
                seen.add(int(label))
                kinds |= {matches[0][2]}
    assert seen == set(range(6))
    assert kinds == {False, True}


def test_without_augmentation_the_images_stay(examples: DeviceExamples) -> None:
    batch = next(DeviceBatches(examples, batch_size=50, augment=False, seed=0).epoch())
    assert sorted(batch.inputs.sum((1, 2, 3)).tolist()) == sorted(
        (examples.inputs.float() / 127.5 - 1).sum((1, 2, 3)).tolist()
    )
    with pytest.raises(ValueError, match="only images"):
        DeviceBatches(DeviceExamples(inputs=torch.zeros(3, 2), labels=torch.zeros(3).long()), batch_size=2,
                      augment=True, seed=0)  # fmt: skip


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_that_of_pytorch(momentum: float) -> None:
    ours, theirs = ([torch.ones(3, 2), torch.full((4,), 0.5)] for _ in range(2))
    reference = torch.optim.SGD(theirs, lr=1.0, momentum=momentum, nesterov=momentum > 0, weight_decay=0.1)
    stepper = Sgd(ours, momentum=momentum, weight_decay=0.1)
    _same_steps(ours, theirs, reference, stepper)


def test_adamw_is_that_of_pytorch() -> None:
    ours, theirs = ([torch.ones(3, 2), torch.full((4,), 0.5)] for _ in range(2))
    reference = torch.optim.AdamW(theirs, lr=1.0, weight_decay=0.1)
    _same_steps(ours, theirs, reference, AdamW(ours, weight_decay=0.1))


def _same_steps(ours: list, theirs: list, reference: torch.optim.Optimizer, stepper: Sgd | AdamW) -> None:
    for fresh in range(2):  # after a reset it starts anew
        generator = torch.Generator().manual_seed(0)
        for rate in (0.1, 0.03, 0.2):
            gradients = [torch.randn(value.shape, generator=generator) for value in ours]
            kept = [gradient.clone() for gradient in gradients]
            for value, gradient in zip(theirs, gradients, strict=True):
                value.grad = gradient.clone()
            reference.param_groups[0]["lr"] = rate
            reference.step()
            stepper.step(gradients, torch.tensor(rate))
            torch.testing.assert_close(ours, theirs)
            assert all(torch.equal(*pair) for pair in zip(gradients, kept, strict=True))
        if not fresh:
            reference.state.clear()
            stepper.reset()


def test_learning_rates_by_hand() -> None:
    torch.testing.assert_close(
        learning_rates(2.0, 5, schedule="linear", warmup=0.4), torch.tensor([1.0, 2.0, 2.0, 2 * 2 / 3, 2 / 3])
    )
    torch.testing.assert_close(learning_rates(1.0, 2, schedule="cosine", warmup=0.0), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(learning_rates(1.0, 2, schedule="constant", warmup=0.5), torch.tensor([1.0, 1.0]))


def test_a_batch_larger_than_the_data_is_all_of_it(examples: DeviceExamples) -> None:
    batches = DeviceBatches(examples, batch_size=500, augment=False, seed=0)
    assert [len(batch.labels) for batch in batches.epoch()] == [50]
    assert isinstance(next(batches.epoch()), DeviceBatch)
