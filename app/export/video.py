"""What a run leaves to look at, made from the re-read GLB: the turntable (H.264, yuv420p) and the contact sheet."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.errors import FULL
from app.export.glb import TexturedMesh, encode_png, write_atomically
from app.export.preview import BACKGROUND, Shading, render_asset, to_bytes
from renderers.cameras import orbit
from renderers.raster import RasterizeContext

ELEVATION = math.radians(15.0)
BATCH = 4  # frames rendered at once; larger ones fall out of the cache
# No time stamp and no library version in the file, and a fixed number of threads: the same frames give the same bytes.
# Colours are converted with, and tagged as, BT.709, which is what browsers assume.
ENCODER = (
    *("-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "medium", "-crf", "18", "-threads", "2"),
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
    *("-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"),
)
INK = (96, 96, 96)
ROWS: tuple[tuple[str, Shading], ...] = (("shaded", "lit"), ("base colour", "base_color"), ("normals", "normal"))


class VideoError(RuntimeError):
    """The video could not be encoded; the message is one sentence for the user."""


def write_video(path: Path, frames: Iterable[np.ndarray], size: int, fps: int) -> None:
    """Encode frames (size, size, 3) uint8, `size` even, as H.264 in an MP4 that is moved into place when it is whole.

    OSError where the disk is full; VideoError, one sentence, where ffmpeg is missing or fails otherwise.
    """
    if size % 2:
        raise ValueError(f"yuv420p needs an even size, not {size}.")
    draft = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size}x{size}", "-r", str(fps), "-i", "-")
    ffmpeg = None
    try:
        executable = imageio_ffmpeg.get_ffmpeg_exe()
        # absolute: a relative name with a colon would be a protocol to ffmpeg, one with a dash in front an option
        command = (executable, "-y", "-v", "error", *source, *ENCODER, os.path.abspath(draft))
        ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            for frame in frames:
                ffmpeg.stdin.write(np.ascontiguousarray(frame).data)  # pyright: ignore[reportOptionalMemberAccess]
        except BrokenPipeError:
            pass  # ffmpeg has ended; its own message follows
        _, complaint = ffmpeg.communicate()
        if number := _refused(ffmpeg.returncode, complaint):
            raise OSError(number, os.strerror(number), str(path))
        if ffmpeg.returncode != 0:
            lines = complaint.decode(errors="replace").strip().splitlines()
            raise VideoError(f"ffmpeg could not write {path}: {lines[0] if lines else ffmpeg.returncode}.")
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, VideoError) or getattr(error, "errno", None) in FULL:
            raise
        raise VideoError(f"ffmpeg could not write {path}: {error}.") from error
    finally:
        if ffmpeg is not None and ffmpeg.poll() is None:
            ffmpeg.kill()  # cancelled half-way
            ffmpeg.wait()
        draft.unlink(missing_ok=True)


def _refused(code: int, complaint: bytes) -> int:
    """The system's number where it refused to write what ffmpeg gave it, or 0."""
    if code == -getattr(signal, "SIGXFSZ", 0) and code:
        return errno.EFBIG
    text = complaint.decode(errors="replace")
    return next((n for n in FULL if code and os.strerror(n) in text), 0)


def turntable(
    ctx: RasterizeContext,
    asset: TexturedMesh,
    path: Path,
    resolution: int = 320,
    frames: int = 72,
    fps: int = 24,
    elevation: float = ELEVATION,
) -> None:
    """One turn around the asset from azimuth 0, shaded, as an MP4; `elevation` in radians. Raises as `write_video`."""
    cameras = orbit(frames, elevation, device=asset.vertices.device)
    pictures = (
        picture
        for first in range(0, frames, BATCH)
        for picture in to_bytes(render_asset(ctx, asset, cameras[first : first + BATCH], resolution, "lit"))
    )
    write_video(path, pictures, resolution, fps)


def contact_sheet(
    ctx: RasterizeContext,
    asset: TexturedMesh,
    path: Path,
    views: int = 8,
    resolution: int = 208,
    elevation: float = ELEVATION,
) -> None:
    """A PNG of `views` views around the asset: a row each for shading, base colour and normals, under azimuths."""
    cameras = orbit(views, elevation, device=asset.vertices.device)
    margin, left, top = 16, 36, 36
    width = left + views * resolution + margin
    height = top + len(ROWS) * resolution + margin
    grey = round(BACKGROUND * 255)
    sheet = Image.new("RGB", (width, height), (grey,) * 3)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for row, (label, shading) in enumerate(ROWS):
        y = top + row * resolution
        for column, picture in enumerate(to_bytes(render_asset(ctx, asset, cameras, resolution, shading))):
            sheet.paste(Image.fromarray(picture), (left + column * resolution, y))
        # row labels run upwards along the left edge
        words = Image.new("RGB", (resolution, 24), (grey,) * 3)
        ImageDraw.Draw(words).text((resolution / 2, 12), label, INK, font, anchor="mm")
        sheet.paste(words.transpose(Image.Transpose.ROTATE_90), (8, y))
    for column in range(views):
        middle = left + (column + 0.5) * resolution
        draw.text((middle, top / 2 + 2), f"{360 * column / views:g}°", INK, font, anchor="mm")
    write_atomically(path, encode_png(np.asarray(sheet)))
