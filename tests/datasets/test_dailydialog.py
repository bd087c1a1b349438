"""DailyDialog: the publisher's layout, broken records, and ordinary spelling."""

import random
import zipfile
from pathlib import Path

import pytest
from places import SHARED

from common.errors import UserError
from datasets.example import Segment
from datasets.tasks.dailydialog import SAMPLE_DIR, dialogue, load, prompt
from datasets.tasks.detokenise import APART, detokenise, is_corpus

CORPUS = SHARED / "dailydialog"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"DailyDialog itself is not in {CORPUS}")


def write_split(folder: Path, content: str | bytes, split: str = "train") -> Path:
    file = folder / split / f"dialogues_{split}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_zip(file: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file


@pytest.mark.parametrize(
    ("tokenised", "ordinary"),
    [
        (
            "Say , Jim , how about going for a few beers after dinner ?",
            "Say, Jim, how about going for a few beers after dinner?",
        ),
        ("I ’ m afraid I don ' t know . It’s late .", "I'm afraid I don't know. It's late."),
        ("I ’ Ve seen it . I'II go , and he ‘ ll stay .", "I've seen it. I'll go, and he'll stay."),
        ("At 5 o ’ clock , ma ’ am , Mr . O ’ Connell .", "At 5 o'clock, ma'am, Mr. O'Connell."),
        ("I am gon na go . I got ta run !", "I am gonna go. I gotta run!"),
        ("It's $ 5 . 50 , not $ 15 , 000 or 20 % off .", "It's $5.50, not $15,000 or 20% off."),
        ("On April 15 , 1986 , at 7 : 30 p . m ..", "On April 15, 1986, at 7:30 p.m."),
        ("Call 367 - 1314 about the L / C .", "Call 367-1314 about the L/C."),
        ("Well . . . I ... ( side ) : yes ; no", "Well... I... (side): yes; no"),
        ('He said " No . " to " Fruit Salad " , twice .', 'He said "No." to "Fruit Salad", twice.'),
        ("What ’ s “ pi ” ? That is ' tea time ' .", "What's \"pi\"? That is 'tea time'."),
        ("It's ten minutes ' walk , isn ' t it ?", "It's ten minutes' walk, isn't it?"),
        ("Our biggest is 16 ' in diameter .", "Our biggest is 16' in diameter."),
        ("Sure.It ' s fine , Mr.Wang 。", "Sure. It's fine, Mr. Wang."),
        (
            "Yes , use file.Name or www.Example.Com . Not obj.Go ( x ) .",
            "Yes, use file.Name or www.Example.Com. Not obj.Go (x).",
        ),
    ],
)
def test_pretokenised_english_gets_its_ordinary_spelling(tokenised, ordinary):
    assert detokenise(tokenised) == ordinary


ORDINARY = [
    "I'm sure they're the boys' bikes, aren't they?",
    "She said, \"I can't (and won't) go!\" and left; we stayed: all of us...",
    "'Hello,' he said. \"'Tis late. Rock 'n' roll, 'cause it's fun.\"",
    "It's $5.50 at 7:30 a.m. in the U.S.A., e.g. 1,000 of them, or 50%.",
    "4 - 1 = 3 is well-known - even to R & D; see https://example.com/a?b=c&d=1.5",
    "The word 's' is the letter 's', not 'd'.",
    "I use .NET and like it :) but not that :( really",
    "Mr. Smith's Ph.D., i.e. his third, took 12/24 months.",
    "你好。今天、明天都“可以”吗？",
    "これは「テスト」です。はい、そうです！",
    "안녕하세요. 오늘, 내일 ‘모두’ 괜찮아요?",
    "Ça va ? Très bien ! Où est-ce : là ; « ici » ?",
    "L’été, c’est « trop » chaud ; n’est-ce pas ?",
    "Use file.Name and obj.Method here.",
    "see www.Example.Com now, or WWW.Example.Org/A.B",
    "Write to Jean.Dupont@Example.Com, please.",
    "Run `ls -l` in the shell, then `cd ..`.",
    "for i in range(3): x[i] = {'a': 1.5, \"b\": [2, 3]}",
    "It’s “fine” – ‘really’ — she said.",
    "two  spaces,\ta tab, and a\u00a0space",
    "🙂 👍🏽, 🇫🇷. ¿Qué? ¡Sí!",
    "0.5, .5, 5., 1.000,50 and 10:30",
    "",
]
CODE = "def f(x):\n    return x , 1\n\n\n# `x` . and '' ''"


@pytest.mark.parametrize("ordinary", [*ORDINARY, CODE])
def test_ordinary_text_comes_out_as_it_went_in(ordinary):
    assert detokenise(ordinary) == ordinary
    assert not is_corpus(f"{ordinary}\n" * APART) or ordinary == CODE


@pytest.mark.parametrize("typed", [*ORDINARY, CODE, "I ’ m fine , thanks .", "a ? b !", "Sure.It will , Mr.Wang 。"])
def test_what_is_typed_in_a_chat_is_never_respelt_and_loses_the_space_around_it(typed):
    asked, said, _ = prompt([f" \t{typed}\n ", typed]).segments
    assert (asked.text, said.text) == (typed.strip(), typed.strip())


@pytest.mark.parametrize(
    "neighbour", ["Hi, there. __eou__ Hello. __eou__", "Well , hello . __eou__ Hi , you . __eou__"]
)
def test_a_file_in_the_corpuss_layout_keeps_ordinary_dialogues_as_they_are(tmp_path, neighbour):
    """Alone, among others of their kind, and among the corpus's own."""
    dialogues = [f"{text.strip()} __eou__ D'accord, merci. __eou__" for text in ORDINARY if text]
    write_split(tmp_path, "\n".join([*dialogues, *[neighbour] * APART]))
    read = [example.segments[0].text for example in load("train", tmp_path)]
    assert read[: len(dialogues)] == [text.strip() for text in ORDINARY if text]
    assert read[-1] == ("Hi, there." if "Hi, " in neighbour else "Well, hello.")


def test_without_a_comma_or_full_stop_that_stands_apart_a_file_is_none_of_the_corpuss(tmp_path):
    lines = ["你好。今天、明天都“可以”吗？ __eou__ 可以。 __eou__", "Ça va ? __eou__ Tu viens demain ? __eou__"]
    write_split(tmp_path, "\n".join(lines))
    dataset = load("train", tmp_path)
    turns = [[segment.text for segment in example.segments] for example in dataset]
    assert turns == [["你好。今天、明天都“可以”吗？", "可以。"], ["Ça va ?", "Tu viens demain ?"]]
    assert dataset.notes == []


def test_how_many_turns_were_respelt_stands_in_the_report(tmp_path):
    write_split(tmp_path, "Well , yes . __eou__ Sure __eou__ Is it ? __eou__\n" * 250)
    assert load("train", tmp_path).notes == ["pre-tokenised English, given its ordinary spelling: 500 turns"]


@pytest.mark.parametrize(
    "content",
    [
        "git add . __eou__ SELECT a , b __eou__\n",
        "git add . __eou__ SELECT a , b __eou__\n" * 249,  # 498 marks
        "git add . __eou__ SELECT a , b __eou__\n" * 900 + "Yes, it is. __eou__ Is it? __eou__\n" * 60,  # 180 of 1,980
        "Tu viens ? __eou__ Non ! __eou__\n" * 1000 + "git add . __eou__ SELECT a , b __eou__\n",
    ],
    ids=["one line", "few marks", "some are attached", "questions"],
)
def test_a_file_of_somebody_elses_keeps_its_marks_where_they_are(tmp_path, content):
    write_split(tmp_path, content)
    dataset = load("train", tmp_path)
    lines = [" __eou__ ".join(segment.text for segment in example.segments) + " __eou__\n" for example in dataset]
    assert ("".join(lines), dataset.notes) == (content, [])


@pytest.mark.parametrize("seed", range(5))
def test_what_came_out_once_does_not_change_again_whatever_the_text(seed):
    words = "I you they students 5 30 000 1986 s t ll Ve II m don o clock a p A 'em it.It Mr.Wang don't 5.50"
    marks = "' \" ’ ‘ “ ” . . , ? ! ; : :: ... - / ( ) $ % 。"
    pieces = words.split() + marks.split()
    draw = random.Random(seed)
    for _ in range(400):
        text = " ".join(draw.choices(pieces, k=draw.randint(1, 14)))
        assert detokenise(detokenise(text)) == detokenise(text), text


def test_the_first_turn_is_given_and_every_later_one_scored_and_all_are_ended():
    segments = dialogue([" How are you? ", "Fine, thanks.", "Good.\n"]).segments
    assert [segment.text for segment in segments] == ["How are you?", "Fine, thanks.", "Good."]
    assert [segment.scored for segment in segments] == [False, True, True]
    assert [segment.speaker for segment in segments] == [0, 1, 0]
    assert all(segment.end for segment in segments)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_chats_prompt_is_the_beginning_of_a_training_example_and_whose_turn_it_is(count):
    turns = ["How are you ?", "Fine , thanks .", "Good .", "Bye ."]
    *said, last = prompt(turns[:count]).segments
    assert tuple(said) == dialogue(turns).segments[:count]
    assert last == Segment("", scored=False, end=False, speaker=count % 2)
    assert prompt(turns[:count]).segments == dialogue(turns[: count + 1]).given.segments


def test_folders_and_zips_hold_the_same_dialogues(tmp_path):
    text = "Hi . __eou__ Hello ! __eou__\nBye . __eou__ See you . __eou__\n"
    member = write_split(tmp_path / "folders", text)
    (tmp_path / "zips").mkdir()
    other = {"../evil.txt": "x", "train/dialogues_act_train.txt": "1 1"}
    write_zip(tmp_path / "zips" / "train.zip", {"train/dialogues_train.txt": text} | other)
    one, two = load("train", tmp_path / "folders"), load("train", tmp_path / "zips")
    assert [example.segments for example in one] == [example.segments for example in two]
    assert one[1].source == f"{member}:2"
    assert two[1].source == f"{tmp_path}/zips/train.zip/train/dialogues_train.txt:2"
    assert sorted(path.name for path in (tmp_path / "zips").iterdir()) == ["train.zip"], "nothing is unpacked"


def test_without_a_folder_the_split_comes_from_the_hub(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "x.zip", {"test/dialogues_test.txt": "A . __eou__ B . __eou__\n"})
    asked = []
    monkeypatch.setattr("datasets.tasks.dailydialog.fetch", lambda *what, **how: asked.append((what, how)) or archive)
    assert len(load("test", None)) == 1
    assert asked == [(("roskoN/dailydialog", "test.zip"), {"repo_type": "dataset"})]


def test_broken_records_are_dropped_by_file_and_line_and_the_others_stay(tmp_path):
    lines = [
        "A . __eou__ B . __eou__",
        "alone . __eou__",
        "A . __eou__ __eou__ B . __eou__",
        "",
        "A . __eou__ B .",
    ]
    file = write_split(tmp_path, "\n".join(lines) + "\n\n")
    dataset = load("train", tmp_path)
    assert [example.source for example in dataset] == [f"{file}:1", f"{file}:5"]
    assert dataset.dropped == [
        f"{file}:2: fewer than two turns ended by __eou__",
        f"{file}:3: an empty turn",
        f"{file}:4: fewer than two turns ended by __eou__",
    ]


def test_bytes_that_are_not_utf8_are_reported_with_file_and_line(tmp_path):
    file = write_split(tmp_path, b"A . __eou__ B . __eou__\nA . __eou__ caf\xe9 . __eou__\n")
    with pytest.raises(UserError, match=rf"{file}:2: this is not UTF-8"):
        load("train", tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "plain text\nof another sort\n"])
def test_a_file_without_any_dialogue_is_the_users_error(tmp_path, content):
    write_split(tmp_path, content)
    with pytest.raises(UserError, match="has no dialogue"):
        load("train", tmp_path)


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_folder_without_the_split_is_told_what_was_looked_for(tmp_path, folder):
    with pytest.raises(UserError, match=r"neither test\.zip nor test/dialogues_test\.txt: give"):
        load("test", tmp_path / folder)


def test_zips_that_are_not_the_publishers_are_the_users_error(tmp_path):
    archive = tmp_path / "train.zip"
    archive.write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"train\.zip is not a sound zip file"):
        load("train", tmp_path)
    write_zip(archive, {"something.txt": "x"})
    with pytest.raises(UserError, match=r"train\.zip has no member train/dialogues_train\.txt"):
        load("train", tmp_path)
    write_zip(archive, {"train/dialogues_train.txt": "A . __eou__ B . __eou__\n" * 100})
    archive.write_bytes(archive.read_bytes()[:40] + b"\xff\xff\xff" + archive.read_bytes()[43:])
    with pytest.raises(UserError, match=r"train\.zip"):
        load("train", tmp_path)


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.read.LIMIT", 1000)
    write_zip(tmp_path / "train.zip", {"train/dialogues_train.txt": "A . __eou__ B . __eou__\n" * 100})
    with pytest.raises(UserError, match="unpacks to more than 1,000 bytes"):
        load("train", tmp_path)


@pytest.mark.parametrize(("split", "dialogues"), [("train", 160), ("validation", 24), ("test", 24)])
def test_the_embedded_sample_is_whole(split, dialogues):
    dataset = load(split, SAMPLE_DIR)
    assert (len(dataset), dataset.dropped) == (dialogues, [])
    turns = [segment.text for example in dataset for segment in example.segments]
    assert not any(" ." in turn or " ," in turn for turn in turns), "small as it is, it is spelt as the corpus is"


@needs_corpus
@pytest.mark.parametrize(("split", "dialogues"), [("train", 11_118), ("validation", 1_000), ("test", 1_000)])
def test_every_dialogue_of_the_official_splits_is_read(split, dialogues):
    dataset = load(split, CORPUS)
    assert (len(dataset), dataset.dropped) == (dialogues, [])


@needs_corpus
def test_spelling_is_stable_on_real_dialogues_and_leaves_hardly_a_space_before_a_full_stop():
    turns = [segment.text for example in load("validation", CORPUS) for segment in example.segments]
    assert all(detokenise(turn) == turn for turn in turns)
    assert sum(" ." in turn.replace(" ...", "") for turn in turns) < len(turns) / 1000
