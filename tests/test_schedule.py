"""Time-step policies and weights: ends in sigma, formulas, bounds, generators."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guidance.prior import NoiseSchedule, scaled_linear_schedule, squared_cosine_schedule
from guidance.schedule import LinearAnneal, SqrtAnneal, Uniform, s2_weight, uniform_weight

SD = scaled_linear_schedule()
COSINE = squared_cosine_schedule()
POLICIES = pytest.mark.parametrize("policy", [Uniform, LinearAnneal, SqrtAnneal])
ANNEALED = pytest.mark.parametrize("policy", [LinearAnneal, SqrtAnneal])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def path(policy, steps: int, schedule: NoiseSchedule) -> list[int]:
    """The shared time steps of a whole run, last step included."""
    return [int(policy.draw(i, steps, 1, schedule, generator())) for i in range(steps + 1)]


@ANNEALED
@pytest.mark.parametrize(("schedule", "high", "low"), [(SD, 980, 300), (COSINE, 950, 437)])
def test_default_ends_are_stable_diffusions_980_and_300(policy, schedule, high: int, low: int) -> None:
    t = path(policy(), 100, schedule)
    assert (t[0], t[-1]) == (high, low)


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from([Uniform, LinearAnneal, SqrtAnneal]),
    ends=st.tuples(st.floats(0.05, 14), st.floats(0.05, 14)).map(sorted),
    steps=st.integers(1, 5000),
    progress=st.floats(0, 1),
    batch=st.integers(1, 9),
    jitter=st.integers(0, 2000),
    schedule=st.sampled_from([SD, COSINE]),
    seed=st.integers(0, 999),
)
def test_every_draw_lies_between_the_ends(policy, ends, steps, progress, batch, jitter, schedule, seed) -> None:
    low, high = ends
    policy = policy(low, high) if policy is Uniform else policy(low, high, jitter)
    step = round(progress * steps)
    t = policy.draw(step, steps, batch, schedule, generator(seed))
    assert t.shape == (batch,) and t.dtype == torch.int64
    assert schedule.t_at(low) <= t.min() and t.max() <= schedule.t_at(high)
    assert torch.equal(t, policy.draw(step, steps, batch, schedule, generator(seed)))


@pytest.mark.parametrize("schedule", [SD, COSINE])
def test_annealed_steps_follow_their_formulas(schedule) -> None:
    low, high, steps = schedule.t_at(0.4), schedule.t_at(12.0), 400
    linear = [low + (high - low) * (1 - i / steps) for i in range(steps + 1)]
    sqrt = [low + (high - low) * (1 - math.sqrt(i / steps)) for i in range(steps + 1)]
    for policy, expected in ((LinearAnneal(0.4, 12.0), linear), (SqrtAnneal(0.4, 12.0), sqrt)):
        t = path(policy, steps, schedule)
        assert max(abs(a - b) for a, b in zip(t, expected, strict=True)) <= 0.5
        assert all(later <= earlier for earlier, later in pairwise(t))
    # a quarter of the way, the square root has gone half of the range
    assert abs(path(SqrtAnneal(0.4, 12.0), steps, schedule)[100] - (low + high) / 2) <= 0.5


def test_uniform_covers_both_ends_evenly_and_independently() -> None:
    policy = Uniform(0.4, 0.43)
    low, high = COSINE.t_at(0.4), COSINE.t_at(0.43)
    t = policy.draw(0, 1, 20_000, COSINE, generator())
    share = torch.bincount(t - low, minlength=high - low + 1) / len(t)
    assert high - low > 5 and share.shape == (high - low + 1,)
    assert (share * len(share) - 1).abs().max() < 0.15


@ANNEALED
def test_annealed_batch_shares_a_step_until_jitter_is_asked(policy) -> None:
    g = generator()
    before = g.get_state()
    assert len(policy().draw(3, 10, 64, SD, g).unique()) == 1
    assert torch.equal(g.get_state(), before)
    middle = int(policy().draw(3, 10, 1, SD, g))
    jittered = policy(jitter=5).draw(3, 10, 500, SD, g) - middle
    assert set(jittered.tolist()) == set(range(-5, 6))


@POLICIES
def test_bad_ranges_are_one_sentence(policy) -> None:
    with pytest.raises(ValueError, match="sigma_min 2 is above sigma_max 1"):
        policy(2, 1).draw(0, 10, 1, SD, generator())
    for step, steps in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(ValueError, match="outside a run"):
            policy().draw(step, steps, 1, SD, generator())


def test_weights() -> None:
    t = torch.tensor([20, 500, 980])
    assert s2_weight(t, SD).shape == uniform_weight(t, SD).shape == (3, 1, 1, 1)
    torch.testing.assert_close(s2_weight(t, SD).flatten(), (1 - SD.abar[t]).float())
    assert torch.equal(uniform_weight(t, SD), torch.ones(3, 1, 1, 1))
