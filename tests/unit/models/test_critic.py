"""The value/critic network."""

import torch
from torch.testing import assert_close


def test_padded_steps_do_not_reach_q(critic, make_batch):
    batch = make_batch(8)
    z = critic.encode(batch.observation)
    chunk = torch.rand(8, 3, 2)
    mask = torch.tensor([True, True, False]).expand(8, 3)
    garbage = chunk.clone()
    garbage[:, 2] = 7.0
    assert_close(critic.q(z, chunk, mask), critic.q(z, garbage, mask))
    assert not torch.allclose(critic.q(z, chunk)[0], critic.q(z, garbage)[0])


def test_the_order_of_actions_matters_to_q(critic, make_batch):
    z = critic.encode(make_batch(8).observation)
    chunk = torch.rand(8, 3, 2)
    assert not torch.allclose(critic.q(z, chunk)[0], critic.q(z, chunk.flip(1))[0])


def test_the_two_critics_differ_and_every_action_gets_a_gradient(critic, make_batch):
    z = critic.encode(make_batch(8).observation)
    chunk = torch.rand(8, 3, 2, requires_grad=True)
    q1, q2 = critic.q(z, chunk)
    assert not torch.allclose(q1, q2)
    (gradient,) = torch.autograd.grad((q1 + q2).sum(), chunk)
    assert (gradient.abs() > 0).all()


def test_value_distribution_is_normalised_on_the_paper_support(critic, make_batch):
    probs, atoms = critic.value_probs(make_batch(5).observation)
    assert probs.shape == (5, 201)
    assert_close(probs.sum(-1), torch.ones(5))
    assert_close(atoms[[0, -1]], torch.tensor([-0.1, 1.1]))


def test_with_bfloat16_products_chunks_are_told_apart_by_less_than_its_step(critic, make_batch):
    z = critic.encode(make_batch(1).observation).expand(64, -1)
    chunk = torch.rand(64, 3, 2)
    with torch.no_grad():
        for head in critic.q_heads:
            head[-1].weight *= 0.02
            head[-1].bias.fill_(0.77)
        exact = critic.q(z, chunk)[0]
        critic.precision = "bfloat16"
        rounded = critic.q(z, chunk)[0]
    assert exact.max() - exact.min() < 2**-8
    assert torch.corrcoef(torch.stack([exact, rounded]))[0, 1] > 0.99
