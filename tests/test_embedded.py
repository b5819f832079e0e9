"""The embedded prior: network, text, weights on disk, prediction, sampling, training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from guidance.errors import MissingWeights
from guidance.method import Asked
from guidance.prior import Picture, UnfitPicture, Views
from guidance.priors.embedded import EmbeddedPrior
from guidance.priors.embedded_network import build_network, camera_vector, predict_x0, widen
from guidance.priors.embedded_sets import TrainConfig
from guidance.priors.embedded_train import (
    load_checkpoint,
    new_state,
    save_checkpoint,
)
from guidance.priors.embedded_weights import export_weights
from guidance.priors.text import MAX_TOKENS, TextEmbedding, TextEncoder
from guidance.sample import ddim_sample, knots
from tests.tiny import tiny_prior

TINY = (16, 32, 48)
CPU = "cpu"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="module")
def prior(encoder: TextEncoder) -> EmbeddedPrior:
    state = new_state(TrainConfig(channels=TINY, seed=3), CPU)
    return EmbeddedPrior(state.net.eval().requires_grad_(False), encoder, config={"size": 32})


def test_text_is_384_wide_padded_and_independent_of_its_neighbours(encoder: TextEncoder) -> None:
    both = encoder(["a red mushroom", "a very long wooden treasure chest full of gold"])
    alone = encoder(["a red mushroom"])
    n = alone.mask.shape[1]
    assert alone.tokens.shape[2] == 384 and n == 5  # [CLS] a red mushroom [SEP]
    assert both.mask[0].sum() == n and not both.tokens[0, n:].any()
    torch.testing.assert_close(both.tokens[0, :n], alone.tokens[0], atol=1e-4, rtol=1e-4)
    assert encoder(["word " * 500]).tokens.shape[1] == MAX_TOKENS
    assert encoder([""]).mask.sum() == 2


def test_default_network_has_the_designed_size() -> None:
    with torch.device("meta"):
        net = build_network()
    assert 11e6 < sum(p.numel() for p in net.parameters()) < 15e6


def test_earlier_weights_go_on_as_the_same_function_and_the_refinement_then_passes_detail() -> None:
    """Weights that know the camera alone and have no refinement; then a refinement whose skip is turned on."""
    g = torch.Generator().manual_seed(0)
    text = TextEmbedding(torch.randn(4, 5, 384, generator=g), torch.ones(4, 5, dtype=torch.bool))
    z, t, camera = torch.randn(4, 7, 32, 32, generator=g), torch.full((4,), 300), torch.randn(4, 16, generator=g)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        old = build_network(TINY, condition_width=16, refined=False)
        new = build_network(TINY)
    new.load_state_dict(widen(dict(old.state_dict()), new))
    with torch.no_grad():
        before, after = (predict_x0(net, z, t, text, camera, 2) for net in (old, new))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
        new.refinement.time[2].bias[-7:] = 0.5
        torch.testing.assert_close(predict_x0(new, z, t, text, camera, 2), before + 0.5 * z, atol=1e-5, rtol=1e-5)


def test_self_attention_joins_the_frames_of_an_object_and_no_others(prior: EmbeddedPrior) -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(8, 7, 32, 32, generator=g)
    t = torch.full((8,), 500)
    text = prior.condition("a car", None).text
    text = TextEmbedding(text.tokens.expand(8, -1, -1), text.mask.expand(8, -1))
    camera = camera_vector(torch.arange(8.0), torch.zeros(8), 8)
    changed = z.clone()
    changed[0] += 1
    with torch.no_grad():
        before = predict_x0(prior.net, z, t, text, camera, 4)
        after = predict_x0(prior.net, changed, t, text, camera, 4)
    moved = (after - before).abs().amax((1, 2, 3))
    assert (moved[1:4] > 1e-6).all(), "the other frames of the object must see the change"
    assert (moved[4:] < 1e-6).all(), "the next object must not"


def test_predicting_two_conditions_at_once_equals_one_at_a_time(prior: EmbeddedPrior) -> None:
    views = Views(torch.arange(4) * math.pi / 2, torch.zeros(4), 4)
    c, u = prior.condition("a red mushroom on a stump", views), prior.condition("", views)
    z = torch.randn(4, 7, 32, 32, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([900, 900, 500, 100])
    before = prior.usage.frame_forwards
    both = prior.predict(z, t, [c, u])
    assert prior.usage.frame_forwards - before == 8
    for one, single in zip(both, (c, u), strict=True):
        torch.testing.assert_close(one.x0, prior.predict(z, t, [single])[0].x0, atol=1e-4, rtol=1e-4)
        s, a = prior.schedule.s(t), prior.schedule.a(t)
        torch.testing.assert_close(a * one.x0 + s * one.eps, z, atol=1e-4, rtol=1e-4)
    assert (both[0].x0 - both[1].x0).abs().max() > 1e-4, "the text must matter"


def test_pictures_join_every_object_as_more_frames(prior: EmbeddedPrior) -> None:
    views = Views(torch.arange(8) * math.pi / 2, torch.zeros(8), 4)
    g = torch.Generator().manual_seed(4)
    frames = torch.rand(2, 7, 32, 32, generator=g)
    z, t = torch.randn(8, 7, 32, 32, generator=g), torch.full((8,), 700)
    azimuth = torch.tensor([0.0, 1.0])
    c, u = prior.condition("a car", views, Picture(frames, azimuth)), prior.condition("", views)
    before = prior.usage.frame_forwards
    both = prior.predict(z, t, [c, u])
    assert prior.usage.frame_forwards - before == 12 + 8
    torch.testing.assert_close(both[1].x0, prior.predict(z, t, [u])[0].x0, atol=1e-4, rtol=1e-4)
    for k in (0, 1):
        other = frames.clone()
        other[k] = 1 - other[k]
        changed = prior.predict(z, t, [prior.condition("a car", views, Picture(other, azimuth))])[0].x0
        assert ((changed - both[0].x0).abs().amax((1, 2, 3)) > 1e-6).all(), "every object sees both pictures"
    turned = prior.predict(z, t, [prior.condition("a car", views, Picture(frames, 2 * azimuth))])[0].x0
    assert ((turned - both[0].x0).abs().amax((1, 2, 3)) > 1e-7).all(), "where the second is from matters"
    with pytest.raises(UnfitPicture, match="views"):
        prior.condition("a car", None, Picture(frames, azimuth))
    with pytest.raises(UnfitPicture, match="one prompt"):
        prior.condition(["a car"] * 8, views, Picture(frames, azimuth))


def test_encode_refuses_other_shapes_and_decode_inverts_it(prior: EmbeddedPrior) -> None:
    frames = torch.rand(2, 7, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(prior.decode(prior.encode(frames)), frames)
    with pytest.raises(ValueError, match="shape"):
        prior.encode(torch.zeros(1, 3, 32, 32))


def test_camera_vector_tells_views_apart_and_hides_what_is_unknown() -> None:
    known = camera_vector(torch.tensor([0.0, math.pi / 2, 2 * math.pi]), torch.zeros(3), 3)
    torch.testing.assert_close(known[0], known[2], atol=1e-5, rtol=0)
    assert (known[0] - known[1]).norm() > 1
    assert not camera_vector(None, None, 2).any()


def test_exported_weights_come_back_and_damage_is_one_sentence(prior: EmbeddedPrior, tmp_path: Path) -> None:
    export_weights(dict(prior.net.state_dict()), tmp_path, TINY, {"x0": 1.0}, size=32)
    loaded = EmbeddedPrior.load(tmp_path)
    assert loaded.frame_shape == (7, 32, 32)
    for (k, a), b in zip(prior.net.state_dict().items(), loaded.net.state_dict().values(), strict=True):
        torch.testing.assert_close(a.bfloat16().float(), b, msg=k)
    trainable = new_state(TrainConfig(channels=TINY), CPU, tmp_path).net
    for (k, a), b in zip(loaded.net.named_parameters(), trainable.parameters(), strict=True):
        assert torch.equal(a, b) and b.requires_grad, k
    shard = next(tmp_path.glob("*.safetensors"))
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(MissingWeights, match="truncated or altered"):
        EmbeddedPrior.load(tmp_path)
    shard.unlink()
    with pytest.raises(MissingWeights, match="is missing"):
        EmbeddedPrior.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingWeights, match="not a Polymode prior"):
        EmbeddedPrior.load(tmp_path)


def test_large_networks_are_exported_in_shards_below_15_mb(tmp_path: Path) -> None:
    state = {f"w{i}": torch.zeros(1000, 3000) for i in range(6)}  # 6 MB each in bf16
    export_weights(state, tmp_path, TINY, {})
    sizes = [p.stat().st_size for p in tmp_path.glob("*.safetensors")]
    assert len(sizes) == 3 and max(sizes) < 15e6
    export_weights({"w": torch.zeros(10, 10)}, tmp_path, TINY, {})
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "shards of an earlier export must go"


def test_the_shipped_weights_are_whole_and_within_the_size_limits() -> None:
    from app.models import known_models

    folder = known_models()[0].folder
    sizes = [p.stat().st_size for p in folder.glob("*.safetensors")]
    assert sizes and max(sizes) <= 15e6 and sum(sizes) <= 50e6
    loaded = EmbeddedPrior.load(folder)
    assert loaded.frame_shape == (7, 64, 64)
    training = json.loads((folder / "config.json").read_text())["training"]
    assert 0 < training["x0"] < 0.05, "the held-out error of the shipped weights"
    assert training["pictured"] < training["x0"], "with a picture it knows more than with a caption"


def test_ddim_is_deterministic_and_stays_in_range(prior: EmbeddedPrior) -> None:
    views = Views(torch.arange(4) * math.pi / 2, torch.zeros(4), 4)
    conditions = prior.condition("a car", views), prior.condition("", views)
    noise = torch.randn(4, 7, 32, 32, generator=torch.Generator().manual_seed(5))
    a = ddim_sample(prior, conditions, noise, steps=3)
    b = ddim_sample(prior, conditions, noise, steps=3)
    assert torch.equal(a, b) and a.abs().max() <= 1
    assert knots(3) == [999, 510, 20]


def test_a_checkpoint_comes_back_bit_by_bit_and_leaves_no_half_file(tmp_path: Path) -> None:
    config = TrainConfig(channels=TINY)
    state = new_state(config, CPU)
    for p in state.net.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    state.optimizer.step()
    state.step, state.frames, state.seconds = 7, 56, 1.5
    state.ema = {k: v * 0.5 for k, v in state.ema.items()}
    save_checkpoint(state, tmp_path / "checkpoint.safetensors")
    again = load_checkpoint(new_state(config, CPU), tmp_path / "checkpoint.safetensors")
    assert (again.step, again.frames, again.seconds) == (7, 56, 1.5)
    for one, two in zip(again.net.parameters(), state.net.parameters(), strict=True):
        assert torch.equal(one, two)
        for k, v in state.optimizer.state[two].items():
            assert torch.equal(again.optimizer.state[one][k], v)
    assert all(torch.equal(again.ema[k], v) for k, v in state.ema.items())
    with pytest.raises(SafetensorError, match="os error"):
        save_checkpoint(state, tmp_path / "nowhere" / "checkpoint.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_bfloat16_differs_by_its_own_rounding_alone() -> None:
    """The same network: x0 in float32 again, nearer to float32's than a hundredth of its range, and not equal."""
    one, other = tiny_prior(), tiny_prior()
    other.precision = "bfloat16"
    z = torch.randn(4, *one.frame_shape, generator=torch.Generator().manual_seed(3))
    t = torch.full((4,), 500)
    a, b = (p.predict(z, t, [p.condition("a cube", None)])[0].x0 for p in (one, other))
    assert b.dtype == torch.float32
    assert 0 < float((a - b).square().mean().sqrt()) < 0.01 * float(a.max() - a.min())
    assert other.with_network(other.net).precision == "bfloat16"


def test_azimuths_are_the_worlds_and_only_the_condition_is_told_of_the_pictures(prior: EmbeddedPrior) -> None:
    """A picture from the side: the conditional branch hears azimuths relative to it, the unconditional one, which
    knows no picture, where the views are."""
    views = Views(torch.arange(4) * math.pi / 2 + 0.2, torch.full((4,), 0.1), 4)
    frames = torch.rand(2, 7, 32, 32, generator=torch.Generator().manual_seed(4))
    for turn in (0.0, 1.1):
        picture = Picture(frames, torch.tensor([turn, turn + 0.5]), torch.zeros(2))
        cond, uncond = Asked("a car", picture=picture).pair(prior, views)
        relative = camera_vector(views.azimuth - turn, views.elevation, 4, "cpu", relative=True)
        torch.testing.assert_close(cond.camera, relative)
        torch.testing.assert_close(uncond.camera, camera_vector(views.azimuth, views.elevation, 4, "cpu"))
        own = camera_vector(torch.tensor([0.0, 0.5]), torch.zeros(2), 2, "cpu", torch.ones(2), relative=True)
        torch.testing.assert_close(cond.picture[1], own)
