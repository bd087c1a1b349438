"""The confusion matrix's picture: its files, what stands in it, and that nothing lies over anything else."""

import struct

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from common.errors import UserError
from evaluation.confusion_plot import STYLE, _colours, _figure, _luminance, draw_confusion, row_shares

EMOTIONS = ["sadness", "joy", "love", "anger", "fear", "surprise"]
SHORT = ["no", "yes"]
LONG = ["World politics and international affairs, with wars", "an_identifier_of_more_than_24_letters", "ok"]
COUNTS = np.array([[8, 2, 0], [1, 0, 1200], [0, 0, 0]])


def matrix(rng, classes, most=2000):
    return rng.integers(0, most, size=(classes, classes))


def figure(counts, labels, title=""):
    """The laid-out Figure and a function that gives a text's box in pixels."""
    with matplotlib.rc_context(STYLE):
        drawn = _figure(counts, labels, title)
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
    return drawn, lambda text: text.get_window_extent(canvas.get_renderer())


def cells(drawn, classes):
    texts = drawn.axes[0].texts
    return [[texts[row * classes + column] for column in range(classes)] for row in range(classes)]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<?xml")])
def test_the_suffix_says_what_kind_of_file_it_becomes(tmp_path, rng, suffix, start):
    output = tmp_path / "new" / f"confusion{suffix}"
    draw_confusion(matrix(rng, 6), EMOTIONS, output, "emotion")
    assert output.read_bytes().startswith(start)
    assert list(output.parent.iterdir()) == [output]


def test_more_classes_make_a_larger_picture(tmp_path, rng):
    widths = []
    for classes in (1, 2, 6, 20):
        draw_confusion(matrix(rng, classes), [f"class {i}" for i in range(classes)], tmp_path / "matrix.png")
        widths.append(struct.unpack(">I", (tmp_path / "matrix.png").read_bytes()[16:20])[0])
    assert widths == sorted(set(widths))
    assert widths[-1] < 2500


@pytest.mark.parametrize("classes", [77, 400])
def test_many_classes_make_a_picture_of_bounded_size(tmp_path, rng, classes):
    draw_confusion(matrix(rng, classes), [f"class {i}" for i in range(classes)], tmp_path / "matrix.png")
    sides = struct.unpack(">II", (tmp_path / "matrix.png").read_bytes()[16:24])
    assert all(3500 < side < 4500 for side in sides)


def test_another_kind_of_file_is_refused(tmp_path, rng):
    with pytest.raises(UserError, match=r"must be a \.png, \.pdf or \.svg file, unlike .*matrix\.jpg"):
        draw_confusion(matrix(rng, 2), SHORT, tmp_path / "matrix.jpg")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_told_as_such(tmp_path, rng):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*matrix.png"):
        draw_confusion(matrix(rng, 2), SHORT, tmp_path / "file" / "matrix.png")


@pytest.mark.parametrize(("shape", "labels"), [((2, 2), EMOTIONS), ((2, 3), SHORT), ((0, 0), [])])
def test_labels_that_do_not_fit_the_matrix_are_refused(tmp_path, shape, labels):
    with pytest.raises(ValueError, match="labels do not fit"):
        draw_confusion(np.zeros(shape, int), labels, tmp_path / "matrix.png")


def test_shares_are_of_the_row_and_unknown_where_it_has_no_examples():
    np.testing.assert_allclose(row_shares(COUNTS), [[0.8, 0.2, 0], [1 / 1201, 0, 1200 / 1201], [np.nan] * 3])


def test_a_cell_holds_its_count_and_its_share_of_the_row():
    drawn, _ = figure(COUNTS, ["a", "b", "c"])
    assert [[cell.get_text() for cell in row] for row in cells(drawn, 3)] == [
        ["8\n80.0%", "2\n20.0%", "0"],
        ["1\n0.1%", "0\n0.0%", "1,200\n99.9%"],  # a recall of 0 is said
        ["0", "0", "0"],
    ]


def test_recalls_are_in_bold():
    drawn, _ = figure(COUNTS, ["a", "b", "c"])
    weights = [[cell.get_fontweight() for cell in row] for row in cells(drawn, 3)]
    assert weights == [["bold", "normal", "normal"], ["normal", "bold", "normal"], ["normal"] * 3]


def test_names_counts_and_accuracy_are_said_as_they_are():
    drawn, _ = figure(COUNTS, ["a$b$", "", "c"], "to $5$")
    axes = drawn.axes[0]
    assert [name.get_text() for name in axes.get_xticklabels()] == ["a$b$", "", "c"]
    assert [name.get_text() for name in axes.get_yticklabels()] == ["a$b$ (10)", " (1,201)", "c (0)"]
    assert axes.get_title(loc="left") == "to $5$\naccuracy 0.7% of 1,211"


def test_a_matrix_without_examples_is_drawn_as_such():
    drawn, _ = figure(np.zeros((2, 2), int), SHORT)
    assert drawn.axes[0].get_title(loc="left") == "no examples"


def test_letters_contrast_with_their_cell_as_wcag_asks_for_text():
    for start in range(0, 100, 4):
        counts = np.array([[start, 100 - start], [start + 2, 98 - start]])
        backgrounds = _luminance(_colours(row_shares(counts)))
        drawn, _ = figure(counts, SHORT)
        for text, background in zip(drawn.axes[0].texts, backgrounds.flat, strict=True):
            if text.get_text() == "0":
                continue  # grey on purpose
            letters = _luminance(np.array(to_rgb(text.get_color())))
            lighter, darker = max(letters, background), min(letters, background)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, text.get_text()


@pytest.mark.parametrize("classes", [1, 2, 3, 6, 11, 20, 30])
@pytest.mark.parametrize("names", [SHORT, LONG])
def test_names_do_not_overlap_and_cells_hold_their_text(rng, classes, names):
    labels = [f"{names[i % len(names)]} {i}" for i in range(classes)]
    drawn, box = figure(matrix(rng, classes, most=20_000), labels)
    axes = drawn.axes[0]
    cell = axes.get_window_extent().width / classes
    assert all(max(box(text).width, box(text).height) < cell for text in axes.texts)

    rows = [box(name) for name in axes.get_yticklabels()]
    assert all(rows[i].y0 > rows[i + 1].y1 for i in range(classes - 1))

    columns = axes.get_xticklabels()
    angle = columns[0].get_rotation()
    if angle == 45:  # slanted lines are as far apart as half a square's diagonal
        for name in columns:
            name.set_rotation(0)
        assert all(box(name).height < cell * np.sqrt(0.5) for name in columns)
    else:
        boxes = [box(name) for name in columns]
        assert all(boxes[i].x1 < boxes[i + 1].x0 for i in range(classes - 1))


def test_names_stand_level_where_they_fit_and_slant_or_stand_where_not(rng):
    def angle(labels):
        return figure(matrix(rng, len(labels)), labels)[0].axes[0].get_xticklabels()[0].get_rotation()

    assert angle(SHORT) == angle(EMOTIONS) == 0
    assert angle(["entailment", "not_entailment_but_else"]) == 45
    assert angle(LONG) == 90


def test_a_name_of_any_length_takes_three_lines_and_says_that_it_was_cut():
    drawn, _ = figure(COUNTS, ["many words " * 50, "x" * 500, "c"])
    words, letters, _ = (name.get_text() for name in drawn.axes[0].get_xticklabels())
    for text in (words, letters):
        assert text.count("\n") == 2
        assert text.endswith("…")
        assert max(map(len, text.split("\n"))) <= 24
