"""Questions in HellaSwag's and Winogrande's form, made of any English prose: the same for the same text.

HellaSwag's: a sentence breaks off in its middle; one ending is its own, three are those of sentences nearby, of about its
length. Winogrande's: a word that a sentence repeats is left out where it comes again; the choices are that word and another
of the words before it. A person finds most answers; a model too small or too coarsely rounded loses some.

    python -m benchmarks.task_data TEXT... --out DIR --items 300
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_SEED = 42
_NEAR, _ENDINGS = 40, 4
_SHORTEST, _LONGEST = 12, 48
_WORD = re.compile(r"[A-Za-z]{4,}")
_PROSE = re.compile(r"[A-Z][A-Za-z ,;'-]+[a-z]\.")


def sentences(text: str) -> list[list[str]]:
    """The words of all sentences of plain prose that are neither short nor long."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    found = (one for paragraph in paragraphs for one in re.findall(r"[A-Z][^.!?]*\.", paragraph))
    words = (one.split() for one in dict.fromkeys(found) if _PROSE.fullmatch(one))
    return [one for one in words if _SHORTEST <= len(one) <= _LONGEST]


def hellaswag(prose: Sequence[list[str]], count: int) -> Iterator[dict[str, object]]:
    """So many questions, from all over the text."""
    rng = random.Random(_SEED)
    for place in sorted(rng.sample(range(len(prose)), count)):
        words = prose[place]
        cut = len(words) // 2
        near = [i for i in range(max(0, place - _NEAR), min(len(prose), place + _NEAR + 1)) if i != place]
        near.sort(key=lambda i: (abs(len(prose[i]) - len(words)), i))
        others = [prose[i][len(prose[i]) // 2 :] for i in rng.sample(near[: 2 * _ENDINGS], _ENDINGS - 1)]
        endings = [" ".join(one) for one in (words[cut:], *others)]
        order = rng.sample(range(_ENDINGS), _ENDINGS)
        context = " ".join(words[:cut])
        yield {"ctx": context, "endings": [endings[i] for i in order], "label": order.index(0)}


def winogrande(prose: Sequence[list[str]], count: int) -> Iterator[dict[str, object]]:
    """So many questions, from all over the text."""
    rng = random.Random(_SEED)
    able = [(words, again) for words in prose if (again := _repeated(words)) is not None]
    for words, again in (able[i] for i in sorted(rng.sample(range(len(able)), count))):
        right = words[again]
        before = [w for w in dict.fromkeys(words[:again]) if _WORD.fullmatch(w) and w.lower() != right.lower()]
        wrong = rng.choice(before)
        choices = rng.sample([right, wrong], 2)
        sentence = " ".join([*words[:again], "_", *words[again + 1 :]])
        yield {
            "sentence": sentence,
            "option1": choices[0],
            "option2": choices[1],
            "answer": choices.index(right) + 1,
        }


def _repeated(words: Sequence[str]) -> int | None:
    """Where a word comes again with other long words before it and some words after it; None where none does."""
    for i in range(4, len(words) - 4):
        others = {w for w in words[:i] if _WORD.fullmatch(w)} - {words[i]}
        if _WORD.fullmatch(words[i]) and words[i] in words[:i] and words[i].islower() and others:
            return i
    return None


def main() -> None:
    """Write `hellaswag.jsonl` and `winogrande.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, default=300)
    given = parser.parse_args()
    prose = sentences("\n\n".join(text.read_text(encoding="utf-8") for text in given.texts))
    given.out.mkdir(parents=True, exist_ok=True)
    for make in (hellaswag, winogrande):
        lines = (json.dumps(row) + "\n" for row in make(prose, given.items))
        (given.out / f"{make.__name__}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
