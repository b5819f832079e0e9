"""The online score of VSD, ESD and f-distill: a LoRA on the prior's own network, trained on the renders as they come.

    L = E_{t', eps'} min(1/s^2, 20) | x0_q(a x + s eps', t', y, c) - x |^2,   x the detached renders

The prediction type and the loss weight are the prior's own; both predictions are turned into eps before they are
subtracted. In a share `drop` of the updates the camera is withheld (frames one by one), which makes the score of the
view-marginal, e_q(z | no camera), that ESD needs. The LoRA starts as the prior itself (B = 0), is warmed on the first
renders, then follows them with at least one update a step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from guidance.method import Setup, UnfitMethod, draw_noise
from guidance.prior import Prediction, Views
from guidance.priors.embedded import EmbeddedPrior
from guidance.settings import LoRA

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
MAX_WEIGHT = 20.0
WARM_UP = 10  # updates over which the learning rate rises


class OnlineScore:
    """A started LoRA. UnfitMethod where the prior has no network of diffusers' kind."""

    def __init__(self, setup: Setup, options: LoRA):
        if not isinstance(setup.prior, EmbeddedPrior):
            raise UnfitMethod(
                f"This method trains a LoRA on the prior's network, and the prior {setup.prior.name} has none; "
                "choose sds, csd, ssd, nfsd, sdi or dsd."
            )
        self.setup, self.options, self.teacher = setup, options, setup.prior
        self.prior, self.parameters = _with_lora(setup.prior, options.rank, setup.generator("lora"))
        self.adam = torch.optim.AdamW(list(self.parameters.values()), lr=options.rate, betas=(0.9, 0.99))
        self.generator = setup.generator("score")
        self.done = 0

    def _condition(self, views: Views | None):
        asked = self.setup.asked
        return self.prior.condition(asked.prompt, views, None if views is None else asked.picture)

    def predict(self, z: Tensor, t: Tensor, views: Views | None) -> Prediction:
        """e_q(z | views), or of the view-marginal where `views` is None; no gradient."""
        return self.prior.predict(z, t, [self._condition(views)])[0]

    def learn(self, x: Tensor, views: Views) -> float:
        """Updates on detached frames x (B, C, H, W) in the prior's own space; the mean loss."""
        o, schedule, total = self.options, self.prior.schedule, 0.0
        count = o.warm + o.updates if self.done == 0 else o.updates
        begin = time.perf_counter()
        for _ in range(count):
            told = None if float(torch.rand((), generator=self.generator)) < o.drop else views
            objects = len(x) // (1 if told is None else told.frames_per_object)
            low, high = schedule.t_at(o.sigma_min), schedule.t_at(o.sigma_max)
            t = torch.randint(low, high + 1, (objects,), generator=self.generator).to(x.device)
            t = t.repeat_interleave(len(x) // objects)
            z = schedule.add_noise(x, draw_noise(x, self.generator), t)
            weight = (1 / schedule.s(t) ** 2).clamp(max=MAX_WEIGHT)
            loss = (weight * (self.prior.denoise(z, t, self._condition(told)) - x).square()).mean()
            self.done += 1
            for group in self.adam.param_groups:
                group["lr"] = o.rate * min(1.0, self.done / WARM_UP)
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
            total += float(loss.detach())
        self.prior.usage.seconds += time.perf_counter() - begin
        return total / max(1, count)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, Adam's moments, the count of updates and the generator."""
        out = {f"lora.{k}": p for k, p in self.parameters.items()}
        for name, p in self.parameters.items():
            out |= {f"adam.{name}.{k}": v for k, v in self.adam.state.get(p, {}).items()}
        return out | {"done": torch.tensor(self.done), "rng": self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"lora.{name}"])
                prefix = f"adam.{name}."
                state = {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}
                if state:
                    self.adam.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}
        self.done = int(tensors["done"])
        self.generator.set_state(tensors["rng"])


def _with_lora(
    prior: EmbeddedPrior, rank: int, generator: torch.Generator
) -> tuple[EmbeddedPrior, dict[str, torch.nn.Parameter]]:
    """A copy of the prior whose network has a LoRA, and the LoRA's weights by name. The prior is not touched."""
    from peft import LoraConfig, inject_adapter_in_model  # a second to import: only for those who need it

    net = copy.deepcopy(prior.net).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), net)
    parameters = {name: p for name, p in net.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, p in parameters.items():
            p.requires_grad_(True)
            if "lora_A" in name:  # peft draws from the global generator; a run must repeat from its own seed
                bound = 1 / math.sqrt(p.shape[1])
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
    return prior.with_network(net), parameters
