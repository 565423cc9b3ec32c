"""The data layer, at its public face: `trials.data.load` and what it returns."""

import io
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from search_spaces.errors import InvalidArgument, UnknownName
from trials.data import Augmentation, Data, DataError, Part, absolute, load, names
from trials.data.files import Folder

SHARED = Path(__file__).parents[2] / "shared" / "data"


def random_images(count, size=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, size, size, channels) if channels else (count, size, size)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def labels_for(count, classes=4):
    return np.arange(count) % classes


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def make_folder(root, count=24, classes=4, size=8, channels=3, seed=0):
    """Class folders c0, c1, ... with `count` images in all."""
    for k, image in enumerate(random_images(count, size, channels, seed)):
        path = root / f"c{k % classes}" / f"{k:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image))
    return root


def make_parquet(path, count=24, classes=4, image="image", label="label", **changes):
    images = changes.get("images", [encoded(x) for x in random_images(count)])
    labels = changes.get("labels", labels_for(count, classes))
    pq.write_table(pa.table({image: images, label: labels}), path)
    return path


def in_order(part: Part, batch_size=7):
    batches = list(part.batches(batch_size))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def refusal(source, **options):
    """The message of the DataError that `source` gives; it names the argument."""
    with pytest.raises(DataError) as caught:
        load(source, **options)
    assert str(caught.value).startswith("data=")
    return str(caught.value)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


# --- what comes out


def test_digits(digits):
    assert (digits.name, digits.num_classes, digits.input_shape) == ("digits", 10, (1, 8, 8))
    assert digits.class_names == tuple("0123456789")
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert digits.augmentation == Augmentation(crop=1, flip=False, cutout=0)
    assert load().fingerprint == digits.fingerprint
    assert load(digits) is digits
    assert len(repr(digits)) < 300


def test_batches_in_order_hold_everything(digits):
    batches = list(digits.validation.batches(100))
    assert [len(x) for x, _ in batches] == [100, 100, 87]
    images, labels = batches[0]
    assert images.dtype == torch.float32
    assert images.shape == (100, 1, 8, 8)
    assert labels.dtype == torch.int64
    assert np.array_equal(torch.cat([y for _, y in batches]), digits.validation.labels)


def test_batches_are_channels_last():
    data = load((random_images(40), labels_for(40)))
    images, _ = next(data.train.batches(8, seed=0, augment=True))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_training_images_are_normalized():
    data = load((random_images(200), labels_for(200)), fraction=0.7)
    images, _ = in_order(data.train)
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    raw = torch.cat([x for x, _ in data.train.raw(64)])
    assert 0 <= raw.min() < raw.max() <= 1
    assert np.allclose(raw.mean((0, 2, 3)), data.mean)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (data.mean, data.std))
    assert torch.allclose((raw - mean) / std, images, atol=1e-5)


def test_an_epoch_is_a_function_of_its_seed(digits):
    epochs = [list(digits.train.batches(64, seed=s, augment=True)) for s in (1, 1, 2)]
    assert all(
        torch.equal(a, b)
        for x, y in zip(*epochs[:2], strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert not torch.equal(epochs[0][0][1], epochs[2][0][1])
    assert [len(x) for x, _ in epochs[0]] == [64] * (len(digits.train) // 64)


def test_shuffling_leaves_global_randomness_alone(digits):
    state = torch.get_rng_state()
    next(digits.train.batches(64, seed=1, augment=True))
    assert torch.equal(state, torch.get_rng_state())


def test_the_only_batch_is_kept_when_incomplete(digits):
    ((images, labels),) = digits.test.batches(10_000, seed=0)
    assert len(images) == len(labels) == len(digits.test)
    assert np.array_equal(np.sort(labels), np.sort(digits.test.labels))


def test_train_and_validation(digits):
    both = digits.train_and_validation
    assert len(both) == len(digits.train) + len(digits.validation)
    assert both.input_shape == digits.input_shape


def test_wrong_batches_are_refused(digits):
    with pytest.raises(InvalidArgument, match="batch_size=0"):
        digits.train.batches(0, seed=1)
    with pytest.raises(InvalidArgument, match="seed"):
        digits.train.batches(8, augment=True)


# --- the division into parts


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(3, 30), min_size=2, max_size=6),
    validation=st.floats(0.05, 0.6),
    test=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
)
def test_division(counts, validation, test, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    options = {"validation_fraction": validation, "test_fraction": test}
    data = load((np.zeros((len(labels), 2, 2), np.uint8), labels), seed, **options)
    parts = (data.train, data.validation, data.test)
    assert np.array_equal(
        np.sort(np.concatenate([part.indices for part in parts])), np.arange(len(labels))
    )
    for label, count in enumerate(counts):
        held = [int((part.labels == label).sum()) for part in parts]
        assert min(held) >= 1
        assert abs(held[2] - count * test) <= 1
        rest = count - held[2]
        assert abs(held[1] - rest * validation) <= 1 or held[0] == 1
    again = load((np.zeros((len(labels), 2, 2), np.uint8), labels), seed, **options)
    assert again.fingerprint == data.fingerprint
    assert np.array_equal(again.train.indices, data.train.indices)


def test_seed_decides_the_division(digits):
    other = load("digits", seed=1)
    assert other.fingerprint != digits.fingerprint
    assert not np.array_equal(other.test.indices, digits.test.indices)


def test_fraction_takes_part_of_the_training_images_only(digits):
    tenth, half = load("digits:fraction=0.1"), load("digits", fraction=0.5)
    assert set(tenth.train.indices) < set(half.train.indices) < set(digits.train.indices)
    assert np.array_equal(tenth.validation.indices, digits.validation.indices)
    assert np.array_equal(tenth.test.indices, digits.test.indices)
    counts = np.bincount(digits.train.labels)
    assert np.all(np.abs(np.bincount(tenth.train.labels) - counts / 10) <= 1)
    assert tenth.mean != digits.mean


# --- pickling


def test_pickles_out_of_band_and_works_read_only():
    data = load((random_images(60), labels_for(60)))
    buffers = []
    stream = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    pixels = 60 * 8 * 8 * 3
    assert len(stream) < 4000
    assert sum(len(b.raw()) == pixels for b in buffers) == 1
    frozen = [b.raw().tobytes() for b in buffers]  # bytes: what is mapped cannot be written to
    copy = pickle.loads(stream, buffers=frozen)
    assert not copy.train.store.images.flags.writeable
    assert copy.train.store is copy.test.store
    assert copy.fingerprint == data.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"seed": 3, "augment": True}):
            ours, theirs = (list(d.train.batches(16, **options)) for d in (data, copy))
            assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(digits):
    for options in ({}, {"seed": 3, "augment": True}):
        pairs = zip(
            digits.train.batches(64, "cpu", **options),
            digits.train.batches(64, "cuda", **options),
            strict=True,
        )
        for (x, y), (u, v) in pairs:
            assert torch.allclose(x, u.cpu(), atol=1e-5)
            assert torch.equal(y, v.cpu())
    assert len(digits.train.store.on_device) == 1
    digits.free()
    assert not digits.train.store.on_device


# --- augmentation


def apply(augmentation, images, seed=0):
    draws = augmentation.draw(len(images), *images.shape[1:3], torch.Generator().manual_seed(seed))
    return augmentation.crop_and_flip(images, draws), draws


@settings(max_examples=30, deadline=None)
@given(
    crop=st.integers(0, 4),
    flip=st.booleans(),
    channels=st.integers(1, 12),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_crop_and_flip_is_what_one_image_at_a_time_gives(crop, flip, channels, size, seed):
    height, width = size
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (9, height, width, channels), dtype=np.uint8))
    changed, draws = apply(Augmentation(crop, flip), images, seed)
    assert changed.shape == images.shape
    for image, result, (top, left, mirror, _, _) in zip(images, changed, draws, strict=True):
        expected = np.pad(image.numpy(), ((crop, crop), (crop, crop), (0, 0)))
        if mirror:
            expected = np.pad(image.numpy()[:, ::-1], ((crop, crop), (crop, crop), (0, 0)))
        assert np.array_equal(result, expected[top : top + height, left : left + width])


def test_no_shift_changes_nothing():
    images = torch.from_numpy(random_images(5))
    draws = torch.tensor([[4, 4, 0, 0, 0]] * 5)
    assert torch.equal(Augmentation(4, True).crop_and_flip(images, draws), images)
    assert Augmentation().crop_and_flip(images, draws) is images


def test_half_of_the_images_are_mirrored_and_all_shifts_occur():
    _, draws = apply(Augmentation(2, True), torch.zeros(4000, 8, 8, 1, dtype=torch.uint8))
    assert set(draws[:, 0].tolist()) == set(draws[:, 1].tolist()) == set(range(5))
    # binomial: five standard deviations, a false alarm in 1.7 million
    assert abs(draws[:, 2].sum() - 2000) < 5 * np.sqrt(1000)


def test_cutout_covers_a_clipped_square():
    draws = torch.tensor([[0, 0, 0, 4, 4], [0, 0, 0, 0, 7]])
    images = Augmentation(cutout=4).cut_out(torch.ones(2, 8, 8, 3), draws)
    assert (images[0] == 0).sum() == 4 * 4 * 3
    assert (images[0, 2:6, 2:6] == 0).all()
    assert (images[1, :2, 5:] == 0).all()
    assert (images[1] == 0).sum() == 2 * 3 * 3


def test_augmentation_options():
    color, gray = (random_images(24, channels=c) for c in (3, 1))
    assert load((color, labels_for(24))).augmentation == Augmentation(1, True, 0)
    assert load((gray, labels_for(24))).augmentation == Augmentation(1, False, 0)
    changed = load((gray, labels_for(24)), crop=0, flip=True, cutout=2)
    assert changed.augmentation == Augmentation(0, True, 2)
    assert load("digits:flip=true,crop=2").augmentation == Augmentation(2, True, 0)
    for height, width, crop in ((8, 64, 1), (64, 9, 8), (64, 8, 1), (64, 7, 0)):
        images = np.zeros((24, height, width, 3), np.uint8)
        assert load((images, labels_for(24))).augmentation.crop == crop


# --- arrays, tensors, data sets


def test_layouts_and_types_agree():
    images, labels = random_images(24), labels_for(24)
    variants = [
        images,
        images.transpose(0, 3, 1, 2),
        torch.from_numpy(images).permute(0, 3, 1, 2),
        images.astype(np.int64),
        images / 255,
        torch.from_numpy(images / np.float32(255)),
    ]
    assert len({load((variant, labels)).fingerprint for variant in variants}) == 1
    assert load((torch.from_numpy(images), torch.from_numpy(labels))).num_classes == 4
    assert load((random_images(24, channels=0), labels)).input_shape == (1, 8, 8)


def test_other_floats_keep_their_units():
    images = np.random.default_rng(0).normal(50, 7, (100, 8, 8))
    data = load((images, labels_for(100)))
    assert data.mean[0] == pytest.approx(50, abs=1)
    assert data.std[0] == pytest.approx(7, abs=0.5)
    normalized, _ = in_order(data.train)
    assert float(normalized.mean()) == pytest.approx(0, abs=1e-4)
    assert next(data.train.raw(4))[0].mean() > 40


def test_constant_channel():
    images = random_images(24)
    images[..., 1] = 9
    data = load((images, labels_for(24)))
    assert data.std[1] == 1
    assert torch.isfinite(in_order(data.train)[0]).all()


def test_arrays_with_a_test_part():
    data = load((random_images(24), labels_for(24)), test=(random_images(8, seed=1), labels_for(8)))
    assert (len(data.train) + len(data.validation), len(data.test)) == (24, 8)


class Pictures(Dataset):
    """PIL images, arrays or tensors, as `make` makes them from H x W x 3 uint8."""

    def __init__(self, make, count=24):
        self.make, self.images = make, random_images(count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.make(self.images[index]), index % 4


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_torch_datasets(limit):
    makes = [
        lambda x: x,
        Image.fromarray,
        lambda x: torch.from_numpy(x).permute(2, 0, 1),
        lambda x: torch.from_numpy(x).permute(2, 0, 1) / 255,
    ]
    reference = load((random_images(24), labels_for(24)))
    for make in makes:
        data = load(Pictures(make), limit_bytes=limit, workers=0)
        assert data.fingerprint == reference.fingerprint
        assert torch.equal(in_order(data.train)[0], in_order(reference.train)[0])
    tensors = TensorDataset(torch.randn(24, 3, 8, 8), torch.arange(24) % 4)
    assert load(tensors, limit_bytes=limit).input_shape == (3, 8, 8)


def test_gray_pictures_count_as_color_among_color():
    gray_or_not = iter([True, False] * 100)
    data = load(Pictures(lambda x: Image.fromarray(x).convert("L" if next(gray_or_not) else "RGB")))
    assert data.input_shape == (3, 8, 8)


# --- folders and Parquet files


def test_folder(tmp_path):
    data = load(make_folder(tmp_path))
    assert data.class_names == ("c0", "c1", "c2", "c3")
    assert data.name == tmp_path.name
    assert data.input_shape == (3, 8, 8)
    assert load(f"folder:{tmp_path}").fingerprint == data.fingerprint
    assert load(str(tmp_path)).fingerprint == data.fingerprint
    image = np.asarray(Image.open(tmp_path / "c0" / "0000.png"))
    assert any(np.array_equal(image, stored) for stored in data.train.store.images)


@pytest.mark.parametrize("validation", ["validation", "val", "valid", None])
def test_folder_with_parts(tmp_path, validation):
    for number, name in enumerate(filter(None, ("train", validation, "test"))):
        make_folder(tmp_path / name, seed=number)
    data = load(tmp_path)
    assert len(data.test) == 24
    assert len(data.train) + len(data.validation) == (48 if validation else 24)
    assert len(data.validation) == (24 if validation else 4)


def test_a_class_called_train(tmp_path):
    make_folder(tmp_path, classes=2)
    (tmp_path / "c1").rename(tmp_path / "train")
    (tmp_path / "__MACOSX").mkdir()
    assert "holds no images" in refusal(tmp_path)  # a folder among classes is a class
    (tmp_path / "__MACOSX").rmdir()
    assert load(tmp_path).class_names == ("c0", "train")


def test_streamed_images_equal_those_in_memory(tmp_path):
    make_folder(tmp_path)
    kept, streamed = load(tmp_path), load(tmp_path, limit_bytes=0, workers=0)
    assert not isinstance(streamed.train.store.images, np.ndarray)
    assert streamed.fingerprint == kept.fingerprint
    assert (streamed.mean, streamed.std) == (kept.mean, kept.std)
    for options in ({}, {"seed": 5, "augment": True}):
        pairs = zip(
            pickle.loads(pickle.dumps(streamed)).train.batches(5, **options),
            kept.train.batches(5, **options),
            strict=True,
        )
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_streaming_with_a_worker(tmp_path):
    data = load(make_folder(tmp_path), limit_bytes=0, workers=1)
    assert torch.equal(in_order(data.train)[1], torch.from_numpy(data.train.labels))


def test_modes_become_one(tmp_path):
    make_folder(tmp_path, channels=0)
    assert load(tmp_path).input_shape == (1, 8, 8)
    image = Image.open(tmp_path / "c0" / "0000.png")
    for k, mode in enumerate(("RGBA", "P", "LA", "1", "I;16")):
        image.convert(mode).save(tmp_path / "c0" / f"x{k}.png")
    assert load(tmp_path).input_shape == (3, 8, 8)


def test_sixteen_bits_are_scaled(tmp_path):
    make_folder(tmp_path, channels=0)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "c0" / "0000.png")
    data = load(tmp_path)
    assert data.input_shape == (1, 8, 8)
    assert (data.train.store.images[0] == 40_000 // 256).all()


def test_size_scales(tmp_path):
    make_folder(tmp_path)
    Image.new("RGB", (30, 20)).save(tmp_path / "c0" / "large.jpg")
    assert load(f"folder:{tmp_path},size=16").input_shape == (3, 16, 16)


def test_parquet(tmp_path):
    path = make_parquet(tmp_path / "a.parquet")
    data = load(path)
    assert (data.name, data.input_shape, data.num_classes) == ("a", (3, 8, 8), 4)
    assert data.fingerprint == load((random_images(24), labels_for(24))).fingerprint
    renamed = make_parquet(tmp_path / "b.parquet", image="img", label="fine")
    assert load(renamed, image="img", label="fine").fingerprint == data.fingerprint


def test_a_pair_of_parquet_files(tmp_path):
    train, test = (make_parquet(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    data = load(f"parquet:{train},test={test}", crop=None)
    assert len(data.test) == 24
    assert load(train, test=train, validation=train).fingerprint != data.fingerprint
    streamed = load(f"parquet:{train},test={test},limit_bytes=0,workers=0")
    assert torch.equal(in_order(data.test)[0], in_order(streamed.test)[0])


def test_parquet_of_hugging_face(tmp_path):
    images = [{"bytes": encoded(x), "path": None} for x in random_images(24)]
    table = pa.table({"image": images, "label": labels_for(24)})
    feature = {"names": ["cat", "dog", "owl", "ant"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.class_names == ("cat", "dog", "owl", "ant")
    plain = load((random_images(24), labels_for(24)))
    assert torch.equal(in_order(data.train)[0], in_order(plain.train)[0])
    assert torch.equal(in_order(data.train)[1], in_order(plain.train)[1])


@pytest.mark.parametrize("metadata", ["[]", "no JSON", '{"info": 3}', '{"info": {"features": []}}'])
def test_parquet_with_other_metadata(tmp_path, metadata):
    images = [encoded(x) for x in random_images(24)]
    table = pa.table({"image": images, "label": labels_for(24)})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").class_names == tuple("0123")


@pytest.mark.skipif(not (SHARED / "cifar10-test.parquet").exists(), reason="no CIFAR-10 here")
def test_real_cifar10():
    data = load(SHARED / "cifar10-test.parquet", fraction=0.5)
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)
    assert [len(data.train), len(data.validation), len(data.test)] == [3200, 1600, 2000]
    # the well-known statistics of CIFAR-10; these files are re-encoded and a sample
    assert np.allclose(data.mean, (0.491, 0.482, 0.447), atol=0.01)
    assert np.allclose(data.std, (0.247, 0.243, 0.262), atol=0.01)


# --- errors


def test_unknown_names():
    with pytest.raises(UnknownName, match=r"data='cifar1'.*Did you mean 'cifar10'"):
        load("cifar1")
    assert "no such folder" in refusal("/no/such/folder")
    assert "no folder" in refusal("folder:/no/such/folder")
    assert "cannot be read" in refusal("parquet:/no/such.parquet")
    with pytest.raises(InvalidArgument, match=r"digits has no option 'fractoin'.*'fraction'"):
        load("digits", fractoin=0.5)
    with pytest.raises(InvalidArgument, match="fraction"):
        load("digits:fraction=much")
    assert "expected a name" in refusal(3)
    assert set(names()) >= {"digits", "cifar10", "cifar100", "svhn", "folder", "parquet"}


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_fraction_out_of_range(fraction):
    assert f"fraction={fraction}" in refusal("digits", fraction=fraction)


def test_options_out_of_range(digits):
    assert "validation_fraction=1.0" in refusal("digits:validation_fraction=1")
    assert "crop=-1" in refusal("digits:crop=-1")
    assert "crop=8" in refusal("digits:crop=8")
    for option in ("size=-4", "size=0", "workers=-1", "limit_bytes=-1"):
        name, value = option.split("=")
        with pytest.raises(InvalidArgument, match=f"{name}='{value}'"):
            load(f"folder:somewhere,{option}")
    with pytest.raises(InvalidArgument, match="size=-4"):
        load(Folder(Path("somewhere"), size=-4))
    for name in ("folder", "parquet"):
        with pytest.raises(InvalidArgument, match="the option 'path' is missing"):
            load(name)
    assert "same column" in refusal("parquet:x.parquet,image=label")
    with pytest.raises(InvalidArgument, match="seed=-1"):
        load("digits", seed=-1)
    with pytest.raises(InvalidArgument, match="takes no"):
        load(digits, fraction=0.5)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_a_failed_download_says_where_files_go(name, tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    message = refusal(f"{name}:root={tmp_path}")
    assert f"{tmp_path}/" in message
    assert "root=" in message
    assert "no network here" in message


def test_mnist_from_files(tmp_path):
    """Files in MNIST's own format, small: the reader is torchvision's, the layout is checked."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        images = random_images(count, 28, channels=0)
        header = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x801, count], ">i4").tobytes()
        labels = labels_for(count, 10).astype(np.uint8).tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels)
    data = load(f"mnist:{tmp_path}")
    assert (data.name, data.input_shape, len(data.test)) == ("mnist", (1, 28, 28), 20)
    assert data.class_names[3] == "3 - three"
    assert data.augmentation == Augmentation(3, False, 0)


def test_corrupt_folder(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "c0" / "0000.png").write_bytes(b"this is no image")
    message = refusal(tmp_path)
    assert "1 of 24 images cannot be read" in message
    assert "0000.png" in message


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_truncated_images(tmp_path, limit):
    """Whose headers are sound, so that only decoding finds them."""
    make_folder(tmp_path, size=32)
    for k in (4, 8):
        path = tmp_path / "c0" / f"{k:04}.png"
        path.write_bytes(path.read_bytes()[:800])
    message = refusal(tmp_path, limit_bytes=limit)
    assert "2 of 24 images cannot be read" in message
    assert "0004.png" in message


def test_corrupt_row(tmp_path):
    images = [encoded(x) for x in random_images(24)]
    images[5] = images[5][:70]
    path = make_parquet(tmp_path / "a.parquet", images=images)
    test = make_parquet(tmp_path / "t.parquet")
    assert "a.parquet, row 5" in refusal(f"parquet:{path},test={test}")
    assert "a.parquet, row 5" in refusal(f"parquet:{test},test={path}")


def test_empty_folders(tmp_path):
    assert "no class folders" in refusal(tmp_path)
    make_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} holds no images" in refusal(tmp_path)


def test_test_folder_with_another_class(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", classes=5)
    assert "class 'c4'" in refusal(tmp_path)


def test_bad_parquet(tmp_path):
    path = make_parquet(tmp_path / "a.parquet", image="img")
    assert "no column image but img, label" in refusal(path)
    assert "not class numbers" in refusal(make_parquet(path, labels=["cat"] * 24))
    assert "not bytes" in refusal(make_parquet(path, images=list(range(24))))
    images = [encoded(x) for x in random_images(24)]
    assert "row 3" in refusal(make_parquet(path, images=[*images[:3], None, *images[4:]]))
    path.write_bytes(b"nothing")
    assert "cannot be read as Parquet" in refusal(path)
    assert "no images" in refusal(
        make_parquet(path, images=pa.array([], pa.binary()), labels=pa.array([], pa.int64()))
    )


def test_bad_labels():
    images = random_images(24)
    assert "24 images but 23 labels" in refusal((images, labels_for(23)))
    assert "negative" in refusal((images, labels_for(24) - 1))
    assert "no training image has 2" in refusal((images, np.array([0, 1, 3] * 8)))
    assert "one class" in refusal((images, np.zeros(24, int)))
    assert "too few" in refusal((images, np.array([0] * 12 + [1] * 10 + [2] * 2)))
    assert "integers" in refusal((images, np.full(24, 0.5)))
    assert "shape (24, 2)" in refusal((images, np.zeros((24, 2), int)))
    assert "label 4 is among" in refusal((images, labels_for(24)), test=(images, labels_for(24, 5)))


def test_bad_images():
    labels = labels_for(24)
    holes = random_images(24) / 255
    holes[3, 1, 1, 1] = np.nan
    assert "cannot be made one array" in refusal(([[[1, 2], [3]]] * 24, labels))
    assert "cannot be made one array" in refusal((random_images(24), [[1], [1, 2]] * 12))
    assert "of <U1" in refusal((np.full((24, 8, 8), "a"), labels))
    assert "of complex128" in refusal((random_images(24).astype(complex), labels))
    assert "of complex128" in refusal(Pictures(lambda x: x.astype(complex)))
    assert "load(train, test=test)" in refusal((Pictures(len), Pictures(len)))
    assert "not a pair" in refusal((random_images(24), labels), test=(labels,))
    assert "1 images hold NaN" in refusal((holes, labels))
    assert "shape (24, 8)" in refusal((np.zeros((24, 8)), labels))
    assert "(9, 9, 3)" in refusal(
        (random_images(24), labels), test=(random_images(8, 9), labels[:8])
    )
    assert "(8, 8, 1)" in refusal(
        (random_images(24), labels), test=(random_images(8, 8, 1), labels[:8])
    )


def test_bad_torch_datasets():
    def failing(image):
        raise KeyError("x")

    assert "item 0 is not" in refusal(Pictures(failing))
    assert "item 0" in refusal(Pictures(lambda x: np.full((8, 8), np.nan)))
    sizes = iter(range(4, 100))
    assert "differ in size" in refusal(Pictures(lambda x: np.zeros((next(sizes), 8), np.uint8)))
    assert "map-style" in refusal(iter([]))
    assert "no images" in refusal(Pictures(lambda x: x, count=0))


def test_fingerprint_sees_pixels_labels_and_division(digits):
    images, labels = random_images(40), labels_for(40)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    swapped = np.roll(labels, 1)
    prints = [
        load((images, labels)),
        load((changed, labels)),
        load((images, swapped)),
        load((images, labels), seed=1),
        digits,
    ]
    assert all(isinstance(d, Data) and len(d.fingerprint) == 16 for d in prints)
    assert len({d.fingerprint for d in prints}) == len(prints)


def test_fingerprint_sees_augmentation_and_class_names(tmp_path):
    plain = load(make_folder(tmp_path))
    prints = [
        load(tmp_path, **options) for options in ({"flip": False}, {"crop": 2}, {"cutout": 3})
    ]
    (tmp_path / "c3").rename(tmp_path / "d3")
    prints += [plain, load(tmp_path)]
    assert len({d.fingerprint for d in prints}) == len(prints)


def test_paths_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "parquet", "img", "photos"):
        (tmp_path / name).mkdir()
    assert absolute("digits") == "digits"
    assert absolute("digits:fraction=0.5") == "digits:fraction=0.5"
    assert absolute("./digits") == str(tmp_path / "digits")
    assert absolute("photos") == str(tmp_path / "photos")
    assert absolute("folder:photos,size=8") == f"folder:{tmp_path / 'photos'},size=8"
    text = "parquet:a.parquet,test=b.parquet,image=img,label=photos"
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert absolute(text) == f"parquet:{a},test={b},image=img,label=photos"
