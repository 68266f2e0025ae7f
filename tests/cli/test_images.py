"""Samples from folders of images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.cli.images import decode, image_source
from secateur.cli.wanted import Wanted
from secateur.core.errors import FileError, InputError

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
RNG = np.random.default_rng(0)
WANTED = Wanted.of(torch.zeros(1, 3, 8, 6))


def picture(path: Path, height: int = 8, width: int = 6, channels: int = 3) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_classes_are_subfolders_in_order(tmp_path: Path) -> None:
    pixels = [picture(tmp_path / name) for name in ("b/2.png", "b/1.PNG", "a/deep/x.png")]
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    picture(tmp_path / ".cache" / "x.png")
    picture(tmp_path / "a" / "._x.png")
    (tmp_path / "empty").mkdir()
    source = image_source(tmp_path, WANTED)
    assert source.classes == ("a", "b")
    assert source.labelled
    assert source.samples == 3
    x, y = source.opened()(np.array([2, 0, 1]))
    assert y.tolist() == [1, 0, 1]
    expected = torch.from_numpy(np.stack([pixels[0], pixels[2], pixels[1]])).permute(0, 3, 1, 2)
    torch.testing.assert_close(x, expected.float() / 255)


def test_flat_folders_and_single_subfolders_have_no_labels(tmp_path: Path) -> None:
    for place in ("flat", "one/only"):
        picture(tmp_path / place / "a.png")
        source = image_source(tmp_path / place.split("/")[0], WANTED)
        assert not source.labelled
        assert source.opened()(np.array([0])).shape == (1, 3, 8, 6)


def test_images_are_cropped_around_the_centre(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pixels = np.zeros((8, 18, 3), np.uint8)
    pixels[:, 6:12] = RNG.integers(0, 256, (8, 6, 3))
    Image.fromarray(pixels).save(path)
    found = decode(str(path), 3, 8, 6)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels[:, 6:12])


def test_resizing_is_bilinear_with_antialiasing(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", 32, 24)
    found = decode(str(tmp_path / "a.png"), 3, 8, 6).float()
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), (8, 6), mode="bilinear",
        antialias=True,
    )[0]  # fmt: skip
    assert (found - reference).abs().max() <= 1.5


@pytest.mark.parametrize("stored", [1, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_those_that_the_input_wants(
    tmp_path: Path, stored: int, channels: int
) -> None:
    pixels = picture(tmp_path / "a.png", channels=stored)
    wanted = Wanted.of(torch.zeros(1, channels, 8, 6))
    found = image_source(tmp_path, wanted).opened()(np.array([0]))
    assert found.shape == (1, channels, 8, 6)
    if stored == channels:
        last = pixels[..., None] if channels == 1 else pixels
        torch.testing.assert_close(found[0].permute(1, 2, 0), torch.from_numpy(last) / 255)


@pytest.mark.parametrize("kind", ["jpg", "bmp", "webp", "gif", "tiff", "ppm"])
def test_formats(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (6, 8), (200, 100, 50)).save(tmp_path / f"a.{kind}")
    found = image_source(tmp_path, WANTED).opened()(np.array([0])) * 255
    assert (found.mean((0, 2, 3)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 4


def test_palettes_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (6, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert decode(str(tmp_path / "a.png"), 3, 8, 6)[:, 0, 0].tolist() == [255, 0, 0]


def test_named_input_and_normalisation(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    wanted = Wanted.of({"pixel_values": torch.zeros(1, 3, 8, 6)}, (0.5,), (0.25,))
    found = image_source(tmp_path, wanted).opened()(np.array([0]))["pixel_values"]
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(found[0], expected)


def test_damaged_images(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(path, 64, 64)
    content = path.read_bytes()
    for damaged in (b"", b"hello", content[:20], content[: len(content) // 2]):
        path.write_bytes(damaged)
        source = image_source(tmp_path, WANTED)
        with pytest.raises(FileError, match=r"a.png cannot be read") as error:
            source.opened()(np.array([0]))
        assert error.value.hint


def test_deep_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 6), 40_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(FileError, match="more than 8 bits"):
        decode(str(tmp_path / "a.png"), 1, 8, 6)


def test_images_that_are_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(FileError, match="cannot be read"):
        decode(str(tmp_path / "a.png"), 3, 8, 6)


def test_folders_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images") as error:
        image_source(tmp_path, WANTED)
    assert error.value.hint
    picture(tmp_path / "train" / "a" / "1.png")
    picture(tmp_path / "val" / "a" / "1.png")
    with pytest.raises(InputError, match="are splits, not classes: train, val"):
        image_source(tmp_path, WANTED)
    picture(tmp_path / "1.png")
    with pytest.raises(InputError, match="both directly in it and in subfolders"):
        image_source(tmp_path, WANTED)


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 2, 8, 6), (1, 3, 8, 6, 1)])
def test_inputs_that_are_no_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="folder of images is for"):
        image_source(tmp_path, Wanted.of(torch.zeros(shape)))


def test_links_that_go_in_circles_end(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert image_source(tmp_path, WANTED).samples == 2


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match="needs Pillow") as error:
        image_source(tmp_path, WANTED)
    assert error.value.hint == "pip install 'secateur[images]'"
