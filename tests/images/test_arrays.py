from __future__ import annotations

import numpy as np
import pytest

from edge_llava.errors import ImageError
from edge_llava.home.image_files.opening import open_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def opened(array):
    image = open_image(array)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_0_to_1(dtype):
    np.testing.assert_array_equal(opened((RGB / 255).astype(dtype)), RGB)
    assert opened(np.array([[0, 0.5, 1]], dtype))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("array", [GREY, GREY[:, :, None]], ids=["(H, W)", "(H, W, 1)"])
def test_grey(array):
    np.testing.assert_array_equal(opened(array), np.repeat(GREY[:, :, None], 3, axis=2))


def test_bool():
    assert opened(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


def test_alpha_of_an_array_is_put_on_white():
    rgba = np.dstack([RGB, np.zeros((5, 7), np.uint8)])
    assert (opened(rgba) == 255).all()
    rgba[:, :, 3] = 255
    np.testing.assert_array_equal(opened(rgba), RGB)
    np.testing.assert_array_equal(opened(rgba.astype(np.float32) / 255), RGB)


@pytest.mark.parametrize(
    "view", [RGB[::-1, ::2], RGB[:, :, ::-1], np.asfortranarray(RGB), RGB.transpose(1, 0, 2), RGB[1:4, 2:5]]
)
def test_arrays_of_any_memory_layout(view):
    np.testing.assert_array_equal(opened(view), view)


def test_the_array_is_left_alone():
    array = RGB.copy()
    open_image(array).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(array, RGB)
    array.flags.writeable = False
    np.testing.assert_array_equal(opened(array), RGB)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 3), np.int32), "not int32 (4, 4, 3)."),
        (np.zeros((4, 4, 3), np.uint16), "not uint16 (4, 4, 3)."),
        (np.zeros((4, 4, 3), np.complex64), "not complex64 (4, 4, 3)."),
        (np.array([["a"]]), "not <U1 (1, 1)."),
        (np.array([[None]]), "not object (1, 1)."),
        (np.zeros((5, 4, 2), np.uint8), "not uint8 (5, 4, 2)."),
        (np.zeros((3, 4, 5), np.uint8), "not uint8 (3, 4, 5). Its channels come first: use array.transpose(1, 2, 0)."),
        (np.zeros((1, 4, 4, 3), np.uint8), "not uint8 (1, 4, 4, 3). Give the images of a batch one by one."),
        (np.zeros(4, np.uint8), "not uint8 (4,)."),
        (np.zeros((), np.uint8), "not uint8 ()."),
        (np.zeros((0, 4, 3), np.uint8), "not uint8 (0, 4, 3)."),
        (np.full((4, 4), np.nan), "this one, float64 (4, 4), holds nan to nan."),
        (np.array([[0, np.inf]]), "this one, float64 (1, 2), holds 0 to inf."),
        (np.array([[0, 255.0]]), "this one, float64 (1, 2), holds 0 to 255."),
        (np.array([[-1, 1.0]]), "this one, float64 (1, 2), holds -1 to 1."),
    ],
    ids=lambda value: f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else "",
)
@pytest.mark.filterwarnings("error")
def test_other_arrays_are_refused_with_what_they_are(array, says):
    with pytest.raises(ImageError) as caught:
        open_image(array)
    assert str(caught.value).endswith(says)
