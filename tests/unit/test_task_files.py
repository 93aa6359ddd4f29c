"""Questions in llama-perplexity's formats: written, read back, and refused where the tool would misread them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.llama import task_files
from ggufkit.llama.task_files import HELLASWAG, MULTIPLE_CHOICE, WINOGRANDE, BadRow, Question

FOUR = Question("He sat", ("down.", "up.", "out.", "in."), 2)
TWO = Question('Ann said "well, _ knows" again.', ("Ann", "Bob"), 1)
MANY = Question("Question: naïve?\nAnswer:", ("yes", "no", "你好", "maybe", "never"), 4)


@pytest.mark.parametrize(
    ("mode", "questions"),
    [
        (HELLASWAG, [FOUR, FOUR]),
        (WINOGRANDE, [TWO, Question("The _ ran.", ("fox", "dog"), 0)]),
        (MULTIPLE_CHOICE, [MANY, FOUR]),
    ],
)
def test_what_is_written_is_read_back(mode: str, questions: list[Question]) -> None:
    read = list(task_files.read(task_files.write(questions, mode), mode))
    assert [(q.context, q.answers, q.right) for q in read] == [(q.context, q.answers, q.right) for q in questions]


def test_hellaswag_has_six_lines_a_question() -> None:
    assert task_files.write([FOUR], HELLASWAG) == b"He sat\n2\ndown.\nup.\nout.\nin.\n"


def test_winogrande_ends_so_that_its_last_line_is_read() -> None:
    """The tool takes the last line end away, and then drops a line that does not end."""
    assert (
        task_files.write([Question("The _ ran.", ("fox", "dog"), 1)], WINOGRANDE) == b"0,The _ ran.,fox,dog,2\n\n"
    )


def test_multiple_choice_has_offsets_from_the_start_of_the_file() -> None:
    data = task_files.write([MANY, FOUR], MULTIPLE_CHOICE)
    count, first, second = struct.unpack_from("<3I", data)
    assert (count, first) == (2, 12)
    (length,) = struct.unpack_from("<I", data, second)
    assert data[second + 4 : second + 4 + length] == FOUR.context.encode()
    assert data.endswith(struct.pack("<5I", 0, 0, 1, 0, 0))  # labels, and no answers of which several are right


texts = st.text(st.sampled_from('ab ,"_.'), min_size=1, max_size=12)


@given(texts, texts, texts, st.integers(0, 1))
def test_a_winogrande_line_says_what_it_should_or_is_not_written(
    sentence: str, one: str, other: str, right: int
) -> None:
    question = Question(sentence, (one, other), right)
    try:
        task_files.require_sound(question, WINOGRANDE)
    except BadRow:
        return
    if task_files.unscorable(question, WINOGRANDE) is None:
        (read,) = task_files.read(task_files.write([question], WINOGRANDE), WINOGRANDE)
        assert (read.context, read.answers, read.right) == (sentence, (one, other), right)


@pytest.mark.parametrize(
    ("question", "mode", "why"),
    [
        (
            Question("How many?", ("1", "10", "12", "1.5"), 0),
            MULTIPLE_CHOICE,
            "all its answers begin with answer 1",
        ),
        (Question("Who?", ("Ann", "Bob", "Ann", "Cy"), 0), HELLASWAG, "its answers 1 and 3 are equal"),
        (Question("It was the _", ("cat", "cats"), 0), WINOGRANDE, "all its answers begin with answer 1"),
        (Question("So we saw the _ run.", ("cat", "dog"), 0), WINOGRANDE, "too little follows its blank"),
        (Question('"A, b" and "c, _ saw me.', ("x", "y"), 0), WINOGRANDE, "its commas and quotation marks"),
        (Question("The _ ran to me", ("fox, dog", "cat"), 0), WINOGRANDE, "its commas and quotation marks"),
    ],
)
def test_what_the_tool_cannot_score_is_known(question: Question, mode: str, why: str) -> None:
    assert why in str(task_files.unscorable(question, mode))


@pytest.mark.parametrize(
    ("question", "mode", "why"),
    [
        (Question("He sat", ("a", "b", "c"), 0, "row 7"), HELLASWAG, "it has 3 answers, not 4"),
        (Question("He sat", ("a", " ", "c", "d"), 0, "row 7"), HELLASWAG, "its answer 2 is empty"),
        (Question(" ", ("a", "b"), 0, "row 7"), MULTIPLE_CHOICE, "it asks nothing"),
        (Question("Who?", ("a", "b"), 2, "row 7"), MULTIPLE_CHOICE, "its right answer is number 3 of 2"),
        (Question("The fox ran.", ("a", "b"), 0, "row 7"), WINOGRANDE, "its sentence has no _"),
    ],
)
def test_what_is_no_question_is_named(question: Question, mode: str, why: str) -> None:
    with pytest.raises(BadRow, match=why) as refused:
        task_files.require_sound(question, mode)
    assert refused.value.place == "row 7"


@pytest.mark.parametrize(
    ("data", "mode", "place", "why"),
    [
        (b"a\n0\nb\nc\nd\n", HELLASWAG, "line 1", "here are 5"),
        (b"a\n0\nb\nc\nd\ne\nf\n4\ng\nh\ni\nj\n", HELLASWAG, "line 8", "not 0 to 3"),
        (b"0,The _ ran.,fox,dog,1\n1,The fox ran.,fox,dog,1\n", WINOGRANDE, "line 2", "SENTENCE WITH _"),
        (b"0,The _ ran.,fox,dog,3\n", WINOGRANDE, "line 1", "1 or 2"),
        (b"\xff_", WINOGRANDE, "the file", "no UTF-8"),
        (task_files.write([MANY, FOUR], MULTIPLE_CHOICE)[:-9], MULTIPLE_CHOICE, "question 2", "the file ends"),
        (b"\xff\xff\xff\x7f", MULTIPLE_CHOICE, "the beginning", "promises"),
    ],
)
def test_a_bad_place_in_a_file_of_the_tool_is_named(data: bytes, mode: str, place: str, why: str) -> None:
    with pytest.raises(BadRow, match=why) as refused:
        list(task_files.read(data, mode))
    assert refused.value.place == place


@given(st.binary(max_size=80))
def test_any_bytes_are_questions_or_refused(data: bytes) -> None:
    for mode in task_files.MODES:
        with contextlib.suppress(BadRow):
            list(task_files.read(data, mode))
