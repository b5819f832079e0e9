"""USDZ for AR on iPhones and for USD tools: Y up, front to +Z, in metres, its longest side `size`; base colour as an
sRGB PNG under UsdPreviewSurface. Needs usd-core (the extra `usd`)."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from app.export.glb import (
    MATERIAL,
    METALLIC,
    ROUGHNESS,
    TexturedMesh,
    check_textured,
    encode_png,
    to_linear,
    write_atomically,
)
from app.export.size import require_formats
from app.export.solid import from_below

COLORS, NORMALS = f"{MATERIAL}.png", "normals.png"
THEN = 315619200  # 1980-01-02, the date of every file in the package: the same mesh gives the same bytes


def usd(name: str) -> Any:
    """A module of usd-core; its names come from C++, where no type checker looks."""
    return importlib.import_module(f"pxr.{name}")


def write_usdz(path: Path, mesh: TexturedMesh, size: float | None) -> None:
    """`size`: the longest side, in millimetres; None keeps the mesh's own, in metres. ValueError for a mesh that is
    empty, not finite or inconsistent; MissingError without usd-core."""
    check_textured(mesh)
    require_formats(("usdz",))
    sdf = usd("Sdf")
    with tempfile.TemporaryDirectory() as folder:
        layer, out = Path(folder) / "mesh.usdc", Path(folder) / "mesh.usdz"
        files = [layer]
        for name, picture in ((COLORS, mesh.texture), (NORMALS, mesh.normal_map)):
            if picture is not None:
                files.append(Path(folder) / name)
                files[-1].write_bytes(encode_png(picture.numpy()))
        describe(str(layer), mesh, size)
        for file in files:
            os.utime(file, (THEN, THEN))
        writer = sdf.ZipFileWriter.CreateNew(str(out))
        for file in files:  # the layer first: it is what opens
            writer.AddFile(str(file), file.name)
        writer.Save()
        write_atomically(path, out.read_bytes())


def describe(layer: str, mesh: TexturedMesh, size: float | None) -> None:
    """Write the stage: one mesh, one material."""
    Gf, Sdf, Usd, UsdGeom, UsdShade, Vt = map(usd, ("Gf", "Sdf", "Usd", "UsdGeom", "UsdShade", "Vt"))
    points = mesh.vertices.numpy()
    if size is not None:
        longest = max(float((points.max(0) - points.min(0)).max()), 1e-30)
        points = points * np.float32(size / 1000 / longest)
    stage = Usd.Stage.CreateNew(layer)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/Root")
    stage.SetDefaultPrim(root.GetPrim())
    body = UsdGeom.Mesh.Define(stage, "/Root/Mesh")
    body.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(points, np.float32)))
    body.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    body.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.numpy().astype(np.int32).reshape(-1)))
    body.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(mesh.normals.numpy()))
    body.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    body.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    body.CreateExtentAttr([Gf.Vec3f(*p.tolist()) for p in (points.min(0), points.max(0))])
    api = UsdGeom.PrimvarsAPI(body)
    st = api.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
    st.Set(Vt.Vec2fArray.FromNumpy(from_below(mesh.uv.numpy())))
    if mesh.colors is not None:
        shown = api.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
        shown.Set(Vt.Vec3fArray.FromNumpy(linear_colors(mesh)))

    material = UsdShade.Material.Define(stage, f"/Root/{MATERIAL}")
    surface = UsdShade.Shader.Define(stage, f"/Root/{MATERIAL}/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(ROUGHNESS)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(METALLIC)
    base = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
    if mesh.colors is None:
        reader = primvar_reader(stage, "uv", "UsdPrimvarReader_float2", "st")
        where = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        colors = texture(stage, "colors", COLORS, "sRGB", where)
        base.ConnectToSource(colors.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))
        if mesh.normal_map is not None:
            bumps = texture(stage, "normals", NORMALS, "raw", where)
            bumps.CreateInput("scale", Sdf.ValueTypeNames.Float4).Set(Gf.Vec4f(2, 2, 2, 1))
            bumps.CreateInput("bias", Sdf.ValueTypeNames.Float4).Set(Gf.Vec4f(-1, -1, -1, 0))
            normal = surface.CreateInput("normal", Sdf.ValueTypeNames.Normal3f)
            normal.ConnectToSource(bumps.CreateOutput("rgb", Sdf.ValueTypeNames.Float3))
    else:
        reader = primvar_reader(stage, "paint", "UsdPrimvarReader_float3", "displayColor")
        base.ConnectToSource(reader.CreateOutput("result", Sdf.ValueTypeNames.Float3))
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    UsdShade.MaterialBindingAPI.Apply(body.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()


def texture(stage: Any, name: str, file: str, space: str, where: Any) -> Any:
    """A shader that reads a picture of the package at `where`."""
    Sdf, UsdShade = usd("Sdf"), usd("UsdShade")
    out = UsdShade.Shader.Define(stage, f"/Root/{MATERIAL}/{name}")
    out.CreateIdAttr("UsdUVTexture")
    out.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(file)
    out.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set(space)
    for wrap in ("wrapS", "wrapT"):
        out.CreateInput(wrap, Sdf.ValueTypeNames.Token).Set("clamp")
    out.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(where)
    return out


def primvar_reader(stage: Any, name: str, kind: str, primvar: str) -> Any:
    """A shader that reads a primvar of the mesh."""
    Sdf, UsdShade = usd("Sdf"), usd("UsdShade")
    reader = UsdShade.Shader.Define(stage, f"/Root/{MATERIAL}/{name}")
    reader.CreateIdAttr(kind)
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set(primvar)
    return reader


def linear_colors(mesh: TexturedMesh) -> np.ndarray:
    """(V, 3) float32: displayColor is linear."""
    assert mesh.colors is not None
    return to_linear(mesh.colors.float() / 255).numpy()
