"""Stages 2 and 3: the field's surface as triangles, then vertices and colours moved under the rasterizer.

The colour stays a solid texture, the field's grid looked up at the surface, so decimation and unwrapping lose none of
it. Refinement minimises guidance + lambda mean ||L v||^2, v the vertex positions and L the uniform Laplacian: the
ripples of marching cubes go, and what guidance insists on stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from app.errors import CollapseError
from app.optimize import Optimization, StepResult
from app.recipes import MeshRecipe, RefineRecipe
from app.stages.reference import Anchor
from app.stages.views import VIEWS, camera_sets, guided
from guidance.method import Guidance
from guidance.prior import Prior
from guidance.schedule import LinearAnneal
from renderers.decimate import decimate
from renderers.fields import GridField, smoothness
from renderers.isosurface import density_to_mesh, keep_largest_components
from renderers.mesh import render_mesh
from renderers.parts import clean
from renderers.raster import antialias_construct_topology_hash, make_context


def extract(field: GridField, recipe: MeshRecipe) -> tuple[Tensor, Tensor]:
    """(vertices (V, 3), faces (F, 3)) of the field's surface, without floaters, decimated. CollapseError if there is
    none."""
    try:
        vertices, faces = density_to_mesh(field, resolution=recipe.resolution)
        vertices, faces, _ = clean(*keep_largest_components(vertices, faces, recipe.keep))
        return decimate(vertices, faces, recipe.faces)
    except ValueError as e:  # EmptyMeshError is one
        why = str(e).rstrip(".")
        raise CollapseError(f"The mesh is of no use: {why}. Try another --seed or more --field.steps.") from e


def uniform_laplacian(faces: Tensor, vertices: int) -> Tensor:
    """Sparse (V, V): the identity minus the mean over neighbours."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long()
    edges = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0)
    degree = torch.bincount(edges[:, 0], minlength=vertices).clamp(min=1).float()
    diagonal = torch.arange(vertices, device=faces.device).expand(2, -1)
    index = torch.cat([diagonal, edges.T], 1)
    values = torch.cat([torch.ones(vertices, device=faces.device), -1 / degree[edges[:, 0]]])
    return torch.sparse_coo_tensor(index, values, (vertices, vertices), check_invariants=False).coalesce()


def start_refine(
    vertices: Tensor, field: GridField, recipe: RefineRecipe, generators: dict[str, torch.Generator]
) -> tuple[GridField, Optimization]:
    """Offsets of zero, and a copy of the field whose colour goes on learning."""
    solid = field.to(field.device)
    offsets = torch.zeros_like(vertices).requires_grad_(True)
    parameters = {"offsets": offsets, "color": solid.raw_color}
    return solid, Optimization(parameters, {"offsets": recipe.rate_vertices, "color": recipe.rate_color}, generators)


def refine_step(
    vertices: Tensor,
    faces: Tensor,
    solid: GridField,
    state: Optimization,
    recipe: RefineRecipe,
    prior: Prior,
    method: Guidance,
    blind: bool = False,
    anchor: Anchor | None = None,
) -> Callable[[int], StepResult]:
    """The refinement's `step(i)`; the method's state joins the stage's. `blind`: frames are denoised one by one.
    `anchor`: what a picture wants of its view."""
    state.guidance = method
    policy = LinearAnneal(recipe.sigma_min, recipe.sigma_max)
    size = prior.frame_shape[-1]
    context = make_context(vertices.device)
    topology = antialias_construct_topology_hash(faces)
    laplacian = uniform_laplacian(faces, len(vertices))
    offsets, g = state.parameters["offsets"], state.generators

    def step(i: int) -> StepResult:
        cameras = camera_sets(recipe.sets, g["camera"], vertices.device, method)
        start = time.perf_counter()
        rendered = render_mesh(context, vertices + offsets, faces, cameras, size, solid.color_at, topology)
        seconds = time.perf_counter() - start
        t = policy.draw(i, recipe.steps, recipe.sets, prior.schedule, g["time"]).repeat_interleave(VIEWS)
        bending = torch.sparse.mm(laplacian, vertices + offsets).square().sum(1).mean()
        smooth = recipe.laplacian * bending + recipe.smooth_color * smoothness(solid.raw_color)
        if anchor is not None:
            mine = render_mesh(context, vertices + offsets, faces, anchor.cameras, size, solid.color_at, topology)
            smooth = smooth + anchor.loss(mine, i / recipe.steps)
        return guided(method, cameras, rendered, t, i / recipe.steps, g["noise"], smooth, seconds, blind)

    return step
