"""Questions in the formats that llama-perplexity reads: --hellaswag, --winogrande, --multiple-choice. Pure functions.

Source: `tools/perplexity/perplexity.cpp`. Its readers are forgiving where it hurts: a Winogrande line that they do not
understand is passed over, a last line without two line ends is lost, an answer with which all others begin reads beyond
its tokens, and where next to nothing follows Winogrande's blank, the second choice is scored where the first one ends.
So what is written here is read back as the tool reads it, and what it cannot score is told.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HELLASWAG, WINOGRANDE, MULTIPLE_CHOICE = "hellaswag", "winogrande", "multiple-choice"
MODES = (HELLASWAG, WINOGRANDE, MULTIPLE_CHOICE)
SUFFIXES = {HELLASWAG: ".txt", WINOGRANDE: ".csv", MULTIPLE_CHOICE: ".bin"}
"""What files of each mode end in."""
MOST_ANSWERS = 100
BLANK = "_"
_ENDINGS, _CHOICES = 4, 2
_COMMAS = 4
_UNIT, _FEWEST_AFTER = re.compile(r"\w+|[^\w\s]"), 3
"""Words and punctuation marks, a token each at least: with the choice's they are more than the tool's three."""
_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class Question:
    """Something that is continued in several ways, of which one is right.

    Args:
        context: what is continued; in Winogrande's form a sentence with a blank.
        answers: how; in Winogrande's form what goes into the blank.
        right: the index of the right answer.
        place: where it stands in its source, as messages say it: "row 17".
    """

    context: str
    answers: tuple[str, ...]
    right: int
    place: str = ""

    @property
    def n_bytes(self) -> int:
        """Of what is evaluated, at most: the context once, and every answer. No token is shorter than a byte."""
        return len(self.context.encode()) + sum(len(answer.encode()) + 1 for answer in self.answers)


class BadRow(ValueError):
    """What should be a question is none. The text is a clause that says why; `place` is where it stands."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.what, self.place = what, place


def require_sound(question: Question, mode: str) -> None:
    """Raise BadRow for what is no question of its mode."""
    n, wanted = len(question.answers), {HELLASWAG: _ENDINGS, WINOGRANDE: _CHOICES}.get(mode)
    if wanted is not None and n != wanted:
        raise BadRow(f"it has {n} answers, not {wanted}", question.place)
    if not 2 <= n <= MOST_ANSWERS:
        raise BadRow(f"it has {n} answers", question.place)
    if not question.context.strip():
        raise BadRow("it asks nothing", question.place)
    if (empty := next((i for i, a in enumerate(question.answers, 1) if not a.strip()), None)) is not None:
        raise BadRow(f"its answer {empty} is empty", question.place)
    if not 0 <= question.right < n:
        raise BadRow(f"its right answer is number {question.right + 1} of {n}", question.place)
    if mode == WINOGRANDE and BLANK not in question.context:
        raise BadRow(f"its sentence has no {BLANK} for the choices", question.place)


def unscorable(question: Question, mode: str) -> str | None:
    """Why llama-perplexity cannot score a sound question, as a clause; None where it can."""
    texts = [_whole(question, answer, mode) for answer in question.answers]
    twin = next((i for i, text in enumerate(texts) if i != question.right and text == texts[question.right]), None)
    if twin is not None:
        return f"its answers {question.right + 1} and {twin + 1} are equal"
    shortest = min(texts, key=len)
    if all(text.startswith(shortest) for text in texts):
        return f"all its answers begin with answer {texts.index(shortest) + 1}"
    if mode == WINOGRANDE and len(_UNIT.findall(question.context.partition(BLANK)[2])) < _FEWEST_AFTER:
        return "too little follows its blank: llama-perplexity scores the second choice in a wrong place then"
    if mode == WINOGRANDE and _winogrande_line(question) is None:
        return "its commas and quotation marks cannot be told apart in llama-perplexity's format"
    return None


def _whole(question: Question, answer: str, mode: str) -> str:
    """What is evaluated for an answer."""
    if mode == WINOGRANDE:
        return question.context.replace(BLANK, answer, 1)
    return f"{question.context} {answer}"


def write(questions: Sequence[Question], mode: str) -> bytes:
    """The file of a mode: questions in their order."""
    if mode == MULTIPLE_CHOICE:
        return _multiple_choice(questions)
    lines = [line for question in questions for line in _lines(question, mode)]
    # The tool drops the last line end of a file, and --winogrande then a last line without one.
    return ("\n".join(lines) + ("\n\n" if mode == WINOGRANDE else "\n")).encode()


def read(data: bytes, mode: str) -> Iterator[Question]:
    """The questions of a file that llama-perplexity reads, checked.

    Raises:
        BadRow: one is none, or the file is cut off.
    """
    readers = {HELLASWAG: _read_hellaswag, WINOGRANDE: _read_winogrande, MULTIPLE_CHOICE: _read_multiple_choice}
    for question in readers[mode](data):
        require_sound(question, mode)
        yield question


def one_line(text: str) -> str:
    """The text without line ends, which separate what is in the text formats."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text).strip()


def _lines(question: Question, mode: str) -> list[str]:
    if mode == HELLASWAG:
        return [question.context, str(question.right), *question.answers]
    line = _winogrande_line(question)
    if line is None:
        raise BadRow("it cannot be written", question.place)
    return [line]


def _read_hellaswag(data: bytes) -> Iterator[Question]:
    lines = _decoded(data).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    size = 2 + _ENDINGS
    for start in range(0, len(lines), size):
        place, part = f"line {start + 1}", lines[start : start + size]
        if len(part) < size:
            raise BadRow(f"a question has {size} lines, here are {len(part)}", place)
        context, label, *endings = part
        if not re.fullmatch(r"\s*[0-3]\s*", label):
            raise BadRow(f"the number of its right ending is {label!r}, not 0 to 3", f"line {start + 2}")
        yield Question(context.rstrip("\r"), tuple(e.rstrip("\r") for e in endings), int(label), place)


def _winogrande_line(question: Question) -> str | None:
    """A line that the tool reads as the question; None if there is none."""
    for quote in ("", '"'):
        line = ",".join(("0", f"{quote}{question.context}{quote}", *question.answers, str(question.right + 1)))
        found = read_winogrande_line(line)
        if found is not None and (found.context, found.answers) == (question.context, question.answers):
            return line
    return None


def _read_winogrande(data: bytes) -> Iterator[Question]:
    for number, line in enumerate(_decoded(data).split("\n"), 1):
        if not line.strip():
            continue
        found = read_winogrande_line(line.rstrip("\r"))
        if found is None:
            raise BadRow("it is not INDEX,SENTENCE WITH _,CHOICE,CHOICE,1 or 2", f"line {number}")
        yield Question(found.context, found.answers, found.right, f"line {number}")


def read_winogrande_line(line: str) -> Question | None:
    """A line as the tool reads it: a quotation mark opens or closes, wherever it stands; commas within do not count."""
    commas, is_open = [], False
    for i, letter in enumerate(line):
        if letter == '"':
            is_open = not is_open
        elif letter == "," and not is_open:
            commas.append(i)
            if len(commas) == _COMMAS:
                break
    if len(commas) < _COMMAS:
        return None
    sentence, one, other = (line[a + 1 : b] for a, b in itertools.pairwise(commas))
    sentence = sentence[1:-1] if sentence.startswith('"') else sentence
    answer = re.match(r"\s*([12])(?!\d)", line[commas[-1] + 1 :])
    if answer is None or BLANK not in sentence:
        return None
    return Question(sentence, (one, other), int(answer[1]) - 1)


def _multiple_choice(questions: Sequence[Question]) -> bytes:
    """u32 count; u32 offset of each task from the start of the file; per task its question, its answers, and no others."""
    tasks = [_task(question) for question in questions]
    offset, offsets = _U32.size * (1 + len(tasks)), []
    for task in tasks:
        offsets.append(_U32.pack(offset))
        offset += len(task)
    return b"".join((_U32.pack(len(tasks)), *offsets, *tasks))


def _task(question: Question) -> bytes:
    labels = (_U32.pack(int(i == question.right)) for i in range(len(question.answers)))
    answers = (_U32.pack(len(question.answers)), *map(_string, question.answers), *labels)
    return b"".join((_string(question.context), *answers, _U32.pack(0)))


def _string(text: str) -> bytes:
    data = text.encode()
    return _U32.pack(len(data)) + data


def _read_multiple_choice(data: bytes) -> Iterator[Question]:
    reader = _Reader(data)
    count = reader.number()
    if _U32.size * (1 + count) > len(data):
        raise BadRow(f"it promises {count:,} questions in {len(data):,} bytes", "the beginning")
    reader.position += _U32.size * count
    for number in range(1, count + 1):
        reader.place = f"question {number}"
        context, (answers, labels), _ = reader.string(), reader.answers(), reader.answers()
        if labels.count(1) != 1:
            raise BadRow(f"it has {labels.count(1)} right answers", reader.place)
        yield Question(context, answers, labels.index(1), reader.place)


class _Reader:
    """Numbers and strings one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position, self.place = 0, "the beginning"

    def number(self) -> int:
        return int(_U32.unpack(self._take(_U32.size))[0])

    def string(self) -> str:
        try:
            return self._take(self.number()).decode()
        except UnicodeDecodeError:
            raise BadRow("it is no UTF-8 text", self.place) from None

    def answers(self) -> tuple[tuple[str, ...], list[int]]:
        """Answers, and for each whether it is right."""
        count = self.number()
        if count > MOST_ANSWERS:
            raise BadRow(f"it has {count:,} answers", self.place)
        return tuple(self.string() for _ in range(count)), [self.number() for _ in range(count)]

    def _take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self._data):
            raise BadRow("the file ends within it", self.place)
        part, self.position = self._data[self.position : end], end
        return part


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRow(f"it is no UTF-8 text, byte {error.start} is wrong", "the file") from None
