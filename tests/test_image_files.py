"""Real image files: of different sizes and kinds, and those that cannot be read."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils.data import Dataset

import raynas
import search_spaces
from search_spaces.errors import InvalidArgument
from trials import Train
from trials.data import DataError, load
from trials.data.images import block_length, channels_last
from trials.data.scaling import LARGEST, Scaling, turn, upright_size, usual_size

RNG = np.random.default_rng(0)


def random_image(height=8, width=8, channels=3, seed=None):
    rng = RNG if seed is None else np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root, images, classes=2, suffix="png"):
    """Write encoded images into class folders c0, c1, ... in turn; return their paths."""
    paths = []
    for k, content in enumerate(images):
        path = root / f"c{k % classes}" / f"{k:04}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
        paths.append(path)
    return paths


def write_parquet(path, images, labels):
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def stored(data):
    """All images as one array, N x height x width x channels."""
    return (
        np.concatenate(list(data.train.store.images.blocks()))
        if _streams(data)
        else (data.train.store.images)
    )


def _streams(data):
    return not isinstance(data.train.store.images, np.ndarray)


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        load(source, **options)
    return str(caught.value)


STREAMED = {"limit_bytes": 0, "workers": 0}


# --- what has one size stays as it is


def test_fingerprints_of_images_of_one_size_are_those_of_old_runs(tmp_path):
    """Noted before images of different sizes were scaled by default."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(x) for x in rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)]
    paths = write_folder(tmp_path / "a", images, classes=4)
    assert load(tmp_path / "a").fingerprint == "8bb76a46210ce1c8"
    Image.new("RGB", (30, 20), (9, 80, 200)).save(paths[0].parent / "large.png")
    assert load(tmp_path / "a", size=16).fingerprint == "53cd6922ebadf53f"
    assert load(tmp_path / "a", size=4, **STREAMED).fingerprint == "a8aa04244e5101de"
    rng = np.random.default_rng(1)
    tall = [Image.fromarray(x) for x in rng.integers(0, 256, (24, 40, 8, 3), dtype=np.uint8)]
    for k, path in enumerate(write_folder(tmp_path / "b", tall, classes=4)):
        path.rename(path.with_stem(f"{k:03}"))
    data = load(tmp_path / "b")
    assert (data.fingerprint, data.notes) == ("f31958b668f22aec", ())
    wide = np.random.default_rng(0).integers(0, 256, (24, 24, 48, 2), dtype=np.uint8)
    assert load((wide, np.arange(24) % 4)).fingerprint == "865a6e5aaf8ecb23"


def test_large_images_of_one_size_are_used_so_and_it_is_said(tmp_path):
    write_folder(tmp_path, [Image.new("L", (300, 256))] * 12)
    data = load(tmp_path)
    assert data.input_shape == (1, 256, 300)
    (note,) = data.notes
    assert note == (
        "all images have 256x300 pixels and are used so; size=224 takes about 1.5 times less "
        "computation."
    )
    assert load(tmp_path, size=32).notes == ()


# --- different sizes


@pytest.mark.parametrize("options", [{}, STREAMED])
def test_images_of_different_sizes_are_scaled_to_a_square_of_the_median(tmp_path, options):
    sizes = [(8, 12), (16, 10), (12, 12), (20, 30), (14, 40), (64, 64)]
    write_folder(tmp_path, [random_image(*size) for size in sizes * 3])
    data = load(tmp_path, **options)
    assert data.input_shape == (3, 12, 12)  # the lower median of 8, 10, 12, 14, 20, 64
    assert data.notes == (
        "18 images from 8x12 to 64x64 pixels (height x width) are cut and scaled to 12x12; "
        "size= says otherwise.",
    )
    assert load(tmp_path, size=12).fingerprint == data.fingerprint
    assert load(tmp_path, size=12).notes == ()
    assert load(tmp_path, size=9, **options).input_shape == (3, 9, 9)


def test_few_images_of_another_size_leave_all_others_untouched(tmp_path):
    """As three photographs of 3,024 x 3,024 among two thousand of one smaller size."""
    images = [random_image(10, 14) for _ in range(28)]
    write_folder(tmp_path, [*images, encoded(random_image(3024, 3024), "JPEG"), random_image(5, 5)])
    data = load(tmp_path)
    assert data.input_shape == (3, 10, 14)
    expected = {np.asarray(image).tobytes() for image in images}
    assert len(expected & {image.tobytes() for image in stored(data)}) == 28
    assert "30 images from 5x5 to 3024x3024 pixels" in data.notes[0]


def test_parquet_of_different_sizes(tmp_path):
    images = [encoded(random_image(size, size + 1)) for size in range(6, 18)]
    path = write_parquet(tmp_path / "a.parquet", images, np.arange(12) % 2)
    data = load(path)
    assert data.input_shape == (3, 11, 11)
    assert "6x7 to 17x18" in data.notes[0]


sizes_of_images = st.lists(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(sizes_of_images, st.randoms())
def test_usual_size(sizes, random):
    height, width = usual_size(sizes)
    assert 1 <= min(height, width) <= LARGEST
    shuffled = random.sample(sizes, len(sizes))
    assert usual_size(shuffled) == (height, width)
    if height == width < LARGEST and len(set(sizes)) > 10:
        shorter = [min(size) for size in sizes]
        assert sum(side <= height for side in shorter) >= len(sizes) / 2
        assert sum(side >= height for side in shorter) >= len(sizes) / 2


def test_usual_size_of_large_images_that_have_nearly_all_one_size():
    assert usual_size([(3024, 4032)] * 9 + [(10, 10)]) == (224, 299)
    assert usual_size([(3024, 4032)] * 6 + [(4032, 3024)] * 4) == (224, 224)
    assert usual_size([(30, 40)] * 8 + [(60, 80)] * 2) == (30, 30)


def test_crop_cuts_and_pad_keeps_the_whole(tmp_path):
    image = Image.new("RGB", (20, 40), (255, 0, 0))  # red, a blue quarter above and below
    image.paste((0, 0, 255), (0, 0, 20, 10))
    image.paste((0, 0, 255), (0, 30, 20, 40))
    write_folder(tmp_path, [image] * 12)
    cropped = stored(load(tmp_path, size=20))[0]
    assert (cropped == (255, 0, 0)).all()
    padded = stored(load(tmp_path, size=20, fit="pad"))[0]
    assert (padded[:, :5] == 0).all()
    assert (padded[:, 15:] == 0).all()
    assert (padded[8:12, 5:15] == (255, 0, 0)).all()
    assert (padded[:4, 5:15] == (0, 0, 255)).all()
    assert (padded[16:, 5:15] == (0, 0, 255)).all()
    with pytest.raises(InvalidArgument, match=r"fit='stretch'.*'crop' or 'pad'"):
        load(tmp_path, fit="stretch")


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK", "F", "I"])
def test_every_mode_can_be_scaled(tmp_path, mode, fit):
    gray = Image.fromarray(np.full((20, 30), 200, np.uint8))
    image = Image.fromarray(np.full((20, 30), 200 * 256, np.uint16)) if "I" in mode else gray
    image = image.convert(mode, dither=Image.Dither.NONE)
    kind = "TIFF" if mode in ("F", "CMYK", "I") else "PNG"
    write_folder(tmp_path, [encoded(image, kind)] * 6 + [gray] * 6, suffix=kind.lower())
    data = load(tmp_path, size=10, fit=fit, **STREAMED)
    image = stored(data)[0]
    assert np.abs(image[5, 5].astype(int) - (255 if mode == "1" else 200)).max() <= 1


def test_a_large_photograph_is_decoded_no_larger_than_needed():
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (4032, 3024)), "JPEG")))
    Scaling((100, 100)).draft(image)
    assert image.size == (504, 378)
    assert 2 * block_length((3024, 4032, 3)) * 3024 * 4032 * 3 < 1 << 28
    assert block_length((224, 224, 3)) == 256


# --- kinds of files


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photographs_stand_upright(kind, orientation):
    """As Pillow's own `exif_transpose` has them; 9 is no orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(random_image(8, 12, seed=1), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = Image.open(io.BytesIO(content))
    size, turned = upright_size(image), turn(image)
    image = image if turned is None else image.transpose(turned)
    assert size == (image.height, image.width) == (expected.height, expected.width)
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_orientation_counts_in_a_data_set(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = random_image(12, 8, seed=1)
    upright = [random_image(8, 12) for _ in range(11)]
    write_folder(tmp_path, [encoded(lying, exif=exif), *upright])
    data = load(tmp_path)
    assert (data.input_shape, data.notes) == ((3, 8, 12), ())
    rotated = np.asarray(lying.transpose(Image.Transpose.ROTATE_270))
    assert any(np.array_equal(rotated, image) for image in stored(data))


def test_damaged_exif_data_are_no_reason_to_leave_an_image_out(tmp_path):
    damaged = encoded(random_image(), "JPEG", exif=b"Exif\0\0nonsense" * 9)
    write_folder(tmp_path, [damaged] + [random_image() for _ in range(11)])
    data = load(tmp_path, broken=0)
    assert (data.input_shape, data.notes) == ((3, 8, 8), ())


def test_cmyk_photographs_have_their_colors(tmp_path):
    photo = Image.new("RGB", (16, 16), (200, 30, 60))
    write_folder(tmp_path, [encoded(photo.convert("CMYK"), "JPEG")] * 12, suffix="jpg")
    assert np.abs(stored(load(tmp_path)).astype(int) - (200, 30, 60)).max() < 12


def test_transparency_is_left_out_and_said_or_kept_as_a_channel(tmp_path):
    icons = [random_image(channels=4) for _ in range(11)]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    write_folder(tmp_path, [encoded(palette, transparency=1), *icons])
    opaque = load(tmp_path)
    assert opaque.input_shape == (3, 8, 8)
    assert "12 of 12 images" in opaque.notes[0]
    assert "channels=4" in opaque.notes[0]
    data = load(tmp_path, channels=4)
    assert (data.input_shape, data.notes) == ((4, 8, 8), ())
    images = {image.tobytes() for image in stored(data)}
    assert {np.asarray(icon).tobytes() for icon in icons} < images
    assert bytes([10, 20, 30, 0] * 64) in images
    assert np.array_equal(stored(data)[..., :3], stored(opaque))
    scaled = stored(load(tmp_path, channels=4, size=5))
    assert any((image == (0, 0, 0, 0)).all() for image in scaled)  # nothing shows, so no color


def test_number_of_channels(tmp_path):
    write_folder(tmp_path, [random_image(channels=k % 2 * 2 + 1) for k in range(24)])
    assert load(tmp_path).input_shape == (3, 8, 8)
    for channels in (1, 3, 4):
        assert load(tmp_path, channels=channels).input_shape == (channels, 8, 8)
    assert (stored(load(tmp_path, channels=4))[..., 3] == 255).all()
    assert "channels=2 is not 1, 3 or 4" in refusal(f"folder:{tmp_path},channels=2")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(8, 40), st.integers(8, 40))
def test_the_channels_of_an_array_are_found(channels, height, width):
    """Of square images whatever their number, of others where they are fewer than pixels."""
    if height != width and channels >= min(height, width):
        height = width
    if height == width == channels:
        return  # arrays and tensors differ then
    last = np.zeros((2, height, width, channels))
    assert channels_last(last, is_tensor=False).shape == last.shape
    assert channels_last(last.transpose(0, 3, 1, 2), is_tensor=False).shape == last.shape


def test_signals_are_no_squares():
    assert channels_last(np.zeros((2, 1, 1, 64)), is_tensor=False).shape == (2, 1, 64, 1)
    assert channels_last(np.zeros((2, 64, 1, 1)), is_tensor=False).shape == (2, 64, 1, 1)


# --- broken files


BROKEN = {
    "empty": b"",
    "text": b"this is no photograph",
    "truncated JPEG": encoded(random_image(64, 64), "JPEG")[:900],
    "truncated PNG": encoded(random_image(64, 64))[:900],
    "no pixels": encoded(random_image(64, 64))[:60],
}


@pytest.mark.parametrize("options", [{}, STREAMED])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_left_out_as_if_it_were_not_there(tmp_path, kind, options):
    paths = write_folder(tmp_path, [random_image(64, 64) for _ in range(120)], suffix="jpg")
    paths[7].write_bytes(BROKEN[kind])
    data = load(tmp_path, **options)
    (note,) = data.notes
    assert "1 of 120 images cannot be read and are left out; the first is" in note
    assert str(paths[7]) in note
    message = refusal(tmp_path, broken=0, **options)
    assert "1 of 120 images cannot be read, the first is" in message
    assert "broken=0.01" in message
    paths[7].unlink()
    assert load(tmp_path, **options).fingerprint == data.fingerprint
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 119
    images = [x for part in (data.train, data.test) for x, _ in part.batches(16)]
    assert sum(map(len, images)) == len(data.train) + len(data.test)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), streamed=st.booleans(), seed=st.integers(0, 99))
def test_labels_stay_with_their_images(tmp_path_factory, data, streamed, seed):
    """Every image shows its label and the part to which it was given."""
    contents = [
        encoded(Image.fromarray(np.full((40, 40), 10 * label + 100 * part, np.uint8)))
        for part in range(2)
        for label in np.arange(40) % 4
    ]
    where = st.integers(0, 79).filter(lambda k: k % 40 >= 12)  # three of every class are sound
    chosen = data.draw(st.dictionaries(where, st.sampled_from(sorted(BROKEN)), max_size=39))
    for k, kind in chosen.items():
        contents[k] = BROKEN[kind]
    root = tmp_path_factory.mktemp("parquet")
    train = write_parquet(root / "train.parquet", contents[:40], np.arange(40) % 4)
    test = write_parquet(root / "test.parquet", contents[40:], np.arange(40) % 4)
    text = f"parquet:{train},test={test},broken=0.5"
    loaded = load(text, seed, channels=1, **(STREAMED if streamed else {}))
    for part, base in ((loaded.train, 0), (loaded.validation, 0), (loaded.test, 100)):
        for images, labels in part.raw(7):
            assert np.array_equal(
                np.rint(images[:, 0, 0, 0].numpy() * 255), 10 * labels.numpy() + base
            )
    sound = 80 - len(chosen)
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == sound
    again = load(text, seed, channels=1, **({} if streamed else STREAMED))
    assert (again.fingerprint, again.notes) == (loaded.fingerprint, loaded.notes)


def test_what_only_decoding_finds_counts_with_what_the_header_tells(tmp_path):
    paths = write_folder(tmp_path, [random_image(64, 64) for _ in range(50)])
    for path, kind in zip(paths[3:6], ("text", "truncated PNG", "empty"), strict=True):
        path.write_bytes(BROKEN[kind])
    for options in ({}, STREAMED):
        message = refusal(tmp_path, broken=0.05, **options)
        assert "3 of 50 images cannot be read" in message
        assert "broken=0.06" in message
        assert "3 of 50 images" in load(tmp_path, broken=0.06, **options).notes[0]


def test_the_row_of_a_broken_image_is_told_after_others_were_left_out(tmp_path):
    images = [encoded(random_image(64, 64)) for _ in range(24)]
    images[2], images[9] = BROKEN["text"], BROKEN["truncated PNG"]
    path = write_parquet(tmp_path / "a.parquet", images, np.arange(24) % 2)
    assert "row 2" in refusal(path, broken=0.05)
    images[2] = images[0]
    write_parquet(path, images, np.arange(24) % 2)
    assert "row 9" in refusal(path, broken=0)


@pytest.mark.parametrize("options", [{}, STREAMED])
def test_a_class_or_part_that_loses_all_is_refused(tmp_path, options):
    for part in ("train", "test"):
        write_folder(tmp_path / part, [random_image(64, 64) for _ in range(24)], classes=3)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(BROKEN["truncated PNG"])
    assert "all test images cannot be read" in refusal(tmp_path, broken=0.6, **options)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(encoded(random_image(64, 64)))
    for path in (tmp_path / "train" / "c1").glob("*.png"):
        path.write_bytes(BROKEN["truncated PNG"])
    message = refusal(tmp_path, broken=0.6, **options)
    assert "all training images of class c1 cannot be read" in message
    assert "24 of 48" in refusal(write_all_broken(tmp_path / "train"), broken=0.4)


def write_all_broken(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    return folder.parent


@pytest.mark.parametrize("broken", [-0.1, 1, float("nan")])
def test_share_of_broken_images_out_of_range(broken, tmp_path):
    assert f"broken={float(broken)}" in refusal(f"folder:{tmp_path},broken={broken}")


# --- data sets of PyTorch


class Photos(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 2


@pytest.mark.parametrize("mode", ["RGB", "P"])
@pytest.mark.parametrize("options", [{}, STREAMED])
def test_pillow_images_of_a_data_set_are_scaled_like_files(tmp_path, options, mode):
    images = [random_image(8 + k % 3, 10 + k % 5).convert(mode) for k in range(24)]
    write_folder(tmp_path, images, classes=1)
    (tmp_path / "c0").rename(tmp_path / "a")
    for path in sorted((tmp_path / "a").iterdir())[1::2]:
        (tmp_path / "b").mkdir(exist_ok=True)
        path.rename(tmp_path / "b" / path.name)
    files, data = load(tmp_path), load(Photos(images), **options)
    assert data.input_shape == files.input_shape == (3, 9, 9)
    assert "24 images from 8x10 to 10x14 pixels" in data.notes[0]
    assert "a Resize among the transforms" in data.notes[0]
    ours, theirs = (sorted(x.tobytes() for x in stored(d)) for d in (data, files))
    assert ours == theirs


def test_arrays_of_different_sizes_are_not_scaled():
    images = [np.asarray(random_image(8 + k % 3, 8)) for k in range(24)]
    assert "arrays and tensors are not scaled; add a Resize" in refusal(Photos(images))
    assert "not scaled" in refusal(Photos([*images[:-1], random_image(9, 9)]))


# --- a search with them


def told_apart(count, shape):
    """Random images, those of class 1 brighter, and their labels."""
    labels = np.arange(count) % 2
    images = RNG.integers(0, 128, (count, *shape)) + 127 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.mark.parametrize(
    "shape",
    [(8, 8, 1), (8, 8, 12), (24, 48, 2), (48, 24, 3), (64, 7, 3), (9, 33, 4), (224, 224, 1)],
)
def test_images_of_any_shape_are_learned(shape):
    data = load(told_apart(60, shape))
    height, width, channels = shape
    assert data.input_shape == (channels, height, width)
    space, augmented = search_spaces.get("nasbench201", channels=4, cells=1), 0
    for images, _ in data.train.batches(8, seed=0, augment=True):
        augmented += len(images)
        assert images.shape[1:] == (channels, height, width)
    assert augmented == 32  # of 39, in whole batches
    trained = Train(batch_size=8).trial(
        space, space.sample(np.random.default_rng(0)), data, 2, 0, torch.device("cpu")
    )
    metrics = [trained.step() for _ in range(2)][-1]
    assert np.isfinite(metrics["train_loss"])
    assert 0 <= metrics["val_accuracy"] <= 1


def test_a_run_with_wide_images_of_two_channels(local_ray, tmp_path):
    arguments = {**SMALL, "data": told_apart(60, (24, 48, 2)), "samples": 1, "epochs": 1}
    result = raynas.run(**arguments, storage_path=tmp_path, name="run")
    assert result.best.model()(torch.zeros(3, 2, 24, 48)).shape == (3, 2)
    program = torch.export.load(result.path / "best" / "model.pt2").module()
    assert program(torch.zeros(3, 2, 24, 48)).shape == (3, 2)


def test_a_run_with_photographs_says_what_was_decided(local_ray, tmp_path, capsys):
    sizes = [(8 + k % 5, 12) for k in range(110)]
    photos = [random_image(*size, channels=4) for size in sizes]
    paths = write_folder(tmp_path / "photos", photos)
    paths[5].write_bytes(b"")
    options = f"folder:{tmp_path / 'photos'},channels=4,validation_fraction=0.3"
    arguments = {**SMALL, "data": options, "samples": 1, "epochs": 1}
    result = raynas.run(**arguments, storage_path=tmp_path, name="run")
    shown = capsys.readouterr().err
    notes = load(options).notes
    assert len(notes) == 2
    for note in notes:
        assert shown.count(f"data: {note}") == 1
        assert note in result.path.joinpath("run.yaml").read_text().replace("\n    ", " ")
        assert note[:60] in (result.path / "report.html").read_text()
