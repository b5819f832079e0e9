"""Differentiable rasterization with nvdiffrast's verbs, signatures, channel order and clip space (Laine et al. 2020,
2011.03277)."""

from renderers.raster.antialias import antialias
from renderers.raster.context import RasterizeContext, RasterizeCpuContext, RasterizeTorchContext, make_context
from renderers.raster.interpolate import interpolate
from renderers.raster.rasterize import rasterize
from renderers.raster.texture import texture, texture_construct_mip
from renderers.raster.topology import Topology, antialias_construct_topology_hash

__all__ = [
    "RasterizeContext",
    "RasterizeCpuContext",
    "RasterizeTorchContext",
    "Topology",
    "antialias",
    "antialias_construct_topology_hash",
    "interpolate",
    "make_context",
    "rasterize",
    "texture",
    "texture_construct_mip",
]
