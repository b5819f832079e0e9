"""What the command line loads before a run: nothing heavy. Each line is a process of its own, asked what it loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.jobs.index import Index
from tests.jobs import queued

HEAVY = (
    "torch diffusers transformers peft accelerate tokenizers safetensors numpy scipy skimage numba PIL cv2 trimesh "
    "imageio_ffmpeg gradio ray pandas"
).split()
ASK = f"""
import json, sys
from app.cli import main
code = None
try:
    main(sys.argv[1:])
except SystemExit as e:
    code = e.code
sys.stderr.write("\\n" + json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]))
"""


def asked(*argv: str, cwd: Path | None = None, **env: str) -> tuple[int, list[str], str]:
    """A command's exit code, the heavy packages that its process loaded, and its output."""
    root = str(Path(__file__).parents[1])
    r = subprocess.run(
        [sys.executable, "-c", ASK, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": root} | env,
    )
    code, loaded = json.loads(r.stderr.splitlines()[-1])
    return code or 0, loaded, r.stdout + r.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("startup")
    queued(Index(root / "runs"), "mushroom")
    return root


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "generate --help",
        "generate --help-all",
        "completion bash",
        "reconstruct --help",
        "compare --help",
        "serve --help",
        "train --help",
        "models list",
        "models list --json",
        "jobs",
        "jobs list --json",
        "jobs show mushroom",
        "jobs cancel mushroom",
    ],
)
def test_what_needs_no_network_loads_none(line: str, runs: Path) -> None:
    code, loaded, output = asked(*line.split(), cwd=runs)
    assert code == 0 and not loaded, output
    assert len(output) > 20


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("generate", 2),
        ("generate mushroom --method magic", 2),
        ("generate mushroom --wrong-flag", 2),
        ("generate mushroom --prior dreamer", 2),
        ("generate mushroom --prior ./nowhere", 3),
        ("generate --resume nowhere", 2),
        ("jobs show nothing", 2),
    ],
)
def test_a_refusal_loads_nothing_either(line: str, expected: int, runs: Path) -> None:
    code, loaded, output = asked(*line.split(), cwd=runs)
    assert code == expected and not loaded, output


FIRST_STAGE = """
import json, sys
from app.cli import begin
from app.models import load_prior
from app.recipes import Recipe
clock = begin(Recipe("a mushroom"))
import torch
prior = load_prior("embedded", torch.device("cpu"))
prior.text("a mushroom")
wanted = {"torch", "numba", "app.pipeline", "guidance.priors.embedded"}
seen = [m for m in sys.argv[1].split(",") if m in sys.modules]
print(json.dumps([sorted(wanted & set(sys.modules)) == sorted(wanted), seen]))
"""


def python(code: str, *arguments: str) -> str:
    """What a process of its own prints."""
    r = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return r.stdout


def test_a_run_begins_without_what_its_first_stage_does_not_use() -> None:
    late = "diffusers,transformers,peft,accelerate,torch._dynamo,sympy,skimage,scipy.stats,scipy.ndimage,trimesh,cv2"
    begun, seen = json.loads(python(FIRST_STAGE, late + ",gradio,ray,pandas,xatlas,fast_simplification"))
    assert begun and not seen


SAME_NETWORK = """
import torch
from guidance.priors.embedded_network import build_network
from guidance.priors import unet
assert unet.COPY, "diffusers was imported whole"
small = dict(channels=(16, 32, 48), refined=False)
ours = build_network(**small)
import diffusers
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as Whole
assert diffusers.utils.is_transformers_available() and diffusers.utils.USE_PEFT_BACKEND
assert Whole is not unet.UNet2DConditionModel and hasattr(diffusers, "StableDiffusionPipeline")
from guidance.priors.embedded_network import FrameAttention
whole = Whole(**{k: v for k, v in ours.config.items() if not k.startswith("_")})
whole.set_attn_processor(FrameAttention())
print(whole.load_state_dict(ours.state_dict()))
g = torch.Generator().manual_seed(1)
z, text = torch.randn(4, ours.config["in_channels"], 16, 16, generator=g), torch.randn(4, 5, 384, generator=g)
told = torch.randn(4, ours.config["projection_class_embeddings_input_dim"], generator=g)
more = dict(class_labels=told, cross_attention_kwargs={"frames": 4}, return_dict=False)
with torch.no_grad():
    a, b = (n(z, torch.arange(4), text, **more)[0] for n in (ours.eval(), whole.eval()))
assert torch.equal(a, b) and a.std() > 0
"""


def test_the_network_is_diffusers_own_and_diffusers_is_whole_for_others() -> None:
    assert "All keys matched" in python(SAME_NETWORK)


def test_the_text_encoder_is_bert() -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    from guidance.priors.text import model_directory
    from tests.tiny import text_encoder

    folder = model_directory()
    bert = BertModel(BertConfig.from_json_file(str(folder / "config.json")), add_pooling_layer=False)
    state = {k.removeprefix("bert."): v for k, v in load_file(folder / "model.safetensors").items()}
    bert.load_state_dict({k: v for k, v in state.items() if not k.startswith("pooler.") and "position_ids" not in k})
    encoder, prompts = text_encoder(), ["a red barrel with iron rings", "", "a key"]
    got = encoder(prompts)
    ids = [encoder.tokenizer.encode(p).ids for p in prompts]
    padded = torch.tensor([i + [0] * (got.mask.shape[1] - len(i)) for i in ids])
    with torch.no_grad():
        want = bert.eval()(input_ids=padded, attention_mask=got.mask.long()).last_hidden_state
    assert (got.tokens - want * got.mask[..., None]).abs().max() < 1e-5 and got.tokens.std() > 0.1
