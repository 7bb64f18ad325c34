"""Finds items by words of their titles, in a catalogue of millions.

The index has the distinct words of all titles in order, and for each word the items whose title
has it, most popular first:

    words       "heat" "heathers" "summer"     one text of bytes, and where each word begins
    items       [5, 80]  [9]  [80, 9]          one array, and where the items of each word begin

Words that begin with some letters follow each other, and so do their items. Letters inside a word
are looked for in the text of all words, which is far shorter than the text of all titles.

A word is a run of letters and digits. Its case, its accents and its apostrophes do not count.
"""

import re
import string
import unicodedata
from bisect import bisect_left

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 1 << 16  # titles whose words are in memory as texts
_MOST_WORDS = 8  # of a query; further words are not looked at
_LEAST_INSIDE = 3  # bytes that are looked for inside of words; fewer are in nearly all titles
_BETWEEN = b"\n"
_AFTER_ALL = b"\xff"  # no byte of UTF-8 is greater

_APOSTROPHES = "'’"
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_IN_WORDS = (string.ascii_letters + string.digits + "'").encode()
# Blanks instead of the ASCII characters that are between words.
_BLANKED = bytes(byte if byte in _IN_WORDS or byte > 127 else ord(" ") for byte in range(256))


class TitleIndex:
    """The items of a catalogue by the words of their titles. Any thread may call it.

    It takes 4 bytes for each word of each title, 4 bytes for each item, and the distinct words.
    """

    def __init__(self, titles: pa.Array, frequency_I: np.ndarray) -> None:
        """
        Args:
            titles: the titles in the order of the row ids; null if an item has no title.
            frequency_I: how popular each item is: the greater, the earlier it is found.
        """
        self._row_of_rank = np.argsort(-frequency_I, kind="stable").astype(np.int32)
        rank_of_row = np.empty_like(self._row_of_rank)
        rank_of_row[self._row_of_rank] = np.arange(len(rank_of_row), dtype=np.int32)

        words, word_P, row_P = _words_of_titles(titles)
        # A pair of a word and an item is one number, so that one sort orders the pairs.
        items = max(len(titles), 1)
        pair_P = np.unique(word_P * items + rank_of_row[row_P])
        self._rank_P = (pair_P % items).astype(np.int32)
        counts = np.bincount(pair_P // items, minlength=len(words))
        self._first_pair = _sums(counts)

        self._text = b"".join(word + _BETWEEN for word in words)
        self._bytes = np.frombuffer(self._text, np.uint8)
        self._count_of_byte = np.bincount(self._bytes, minlength=256)
        self._first_byte = _sums(np.array([len(word) + 1 for word in words], np.int64))

    @property
    def nbytes(self) -> int:
        """How many bytes the index takes."""
        arrays = (self._row_of_rank, self._rank_P, self._first_pair, self._first_byte)
        return len(self._text) + sum(array.nbytes for array in arrays)

    def find(self, query: str, limit: int) -> list[int]:
        """Returns the row ids of items whose titles match a query.

        First come titles that have all words of the query, then those with words that begin with
        them, then those that contain them inside of words. Within each of these, the most popular
        come first. Words of one or two ASCII letters are looked for only where words begin. Without
        a word, the most popular items of all are returned.

        Args:
            query: words, or beginnings or parts of words.
            limit: how many items are returned at most.
        """
        wanted = [word.encode() for word in dict.fromkeys(words_of(query))][:_MOST_WORDS]
        if not wanted:
            found = self._row_of_rank[:limit] if not query.strip() else self._row_of_rank[:0]
            rows: list[int] = found.tolist()
            return rows

        ranks: dict[int, None] = {}
        for look_up in (self._whole, self._beginning, self._containing):
            matching = self._in_all([self._ranks(look_up(word)) for word in wanted])
            # Of those that match, some may have been found already.
            ranks.update(dict.fromkeys(matching[: limit + len(ranks)].tolist()))
            if len(ranks) >= limit:
                break
        return self._row_of_rank[list(ranks)[:limit]].tolist()

    def _whole(self, word: bytes) -> np.ndarray:
        """Returns the number of a word; none if no title has it."""
        number = self._place(word)
        return np.arange(number, number + (self._word(number) == word))

    def _beginning(self, start: bytes) -> np.ndarray:
        """Returns the numbers of the words that begin with some letters."""
        return np.arange(self._place(start), self._place(start + _AFTER_ALL))

    def _containing(self, part: bytes) -> np.ndarray:
        """Returns the numbers of the words that contain some letters."""
        if len(part) < _LEAST_INSIDE:
            return self._beginning(part)
        # The rarest letter leaves the fewest places to look at.
        offsets = sorted(range(len(part)), key=lambda offset: self._count_of_byte[part[offset]])
        rarest = offsets[0]
        starts = max(len(self._bytes) - len(part) + 1, 0)
        at = np.flatnonzero(self._bytes[rarest : rarest + starts] == part[rarest])
        for offset in offsets[1:]:
            at = at[self._bytes[at + offset] == part[offset]]
        return np.unique(np.searchsorted(self._first_byte, at, side="right") - 1)

    def _place(self, word: bytes) -> int:
        """Returns the number of the first word that is not before another in the order."""
        return bisect_left(range(len(self._first_byte) - 1), word, key=self._word)

    def _word(self, number: int) -> bytes:
        """Returns a word by its number; it is empty after the last word."""
        if number >= len(self._first_byte) - 1:
            return b""
        return self._text[self._first_byte[number] : self._first_byte[number + 1] - len(_BETWEEN)]

    def _ranks(self, words: np.ndarray) -> np.ndarray:
        """Returns the ranks of the items that have any of some words, some of them repeatedly."""
        if not len(words):
            return self._rank_P[:0]
        first = self._first_pair[words]
        last = self._first_pair[words + 1]
        # The pairs of words that follow each other also follow each other.
        if words[-1] - words[0] == len(words) - 1:
            return self._rank_P[first[0] : last[-1]]
        return self._rank_P[_ranges(first, last - first)]

    def _in_all(self, sets: list[np.ndarray]) -> np.ndarray:
        """Returns the ranks that are in all sets, ascending."""
        sets = sorted(sets, key=len)
        if not len(sets[0]):
            return sets[0]
        is_in_all = np.ones(len(self._row_of_rank), bool)
        for ranks in sets:
            is_in = np.zeros(len(is_in_all), bool)
            is_in[ranks] = True
            is_in_all &= is_in
        return np.flatnonzero(is_in_all)


def words_of(text: str) -> list[str]:
    """Returns the words of a text, in the form in which the index has them.

    >>> words_of("Schindler's LIST: Amélie")
    ['schindlers', 'list', 'amelie']
    """
    # `casefold` looks at each letter alone, so it does not matter how a text is cut into parts.
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).casefold()
        text = "".join(letter for letter in text if unicodedata.category(letter)[0] != "M")
    for apostrophe in _APOSTROPHES:
        text = text.replace(apostrophe, "")
    return _LETTERS_AND_DIGITS.findall(text)


def _words_of_titles(titles: pa.Array) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Finds the words of titles.

    Returns:
        The different words, in order; and for each word of each title, the number of the word and
        the row id of the title, both int64.
    """
    parts, part_P, row_P = _parts_of_titles(titles)

    # What is between blanks is nearly always one word. The same parts occur in many titles.
    words_of_parts = [words_of(part) for part in parts]
    distinct = sorted({word.encode() for words in words_of_parts for word in words})
    number = {word: place for place, word in enumerate(distinct)}
    word_W = np.array(
        [number[word.encode()] for words in words_of_parts for word in words], np.int64
    )
    count_of_part = np.array([len(words) for words in words_of_parts], np.int64)

    counts = count_of_part[part_P]
    first = _sums(count_of_part)[part_P]
    return distinct, word_W[_ranges(first, counts)], np.repeat(row_P, counts)


def _parts_of_titles(titles: pa.Array) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Splits titles at ASCII characters that are in no word.

    Returns:
        The different parts; and for each part of each title, its place in this list and the row id
        of the title.
    """
    encoded = []
    rows = [np.zeros(0, np.int64)]
    for first in range(0, len(titles), _AT_ONCE):
        texts = pc.fill_null(titles[first : first + _AT_ONCE].cast(pa.string()), "")
        _, offsets, data = texts.buffers()
        blanked = pa.py_buffer((data.to_pybytes() if data else b"").translate(_BLANKED))
        buffers = [None, offsets, blanked]
        texts = pa.Array.from_buffers(pa.string(), len(texts), buffers, offset=texts.offset)
        lists = pc.ascii_split_whitespace(texts)

        encoded.append(lists.flatten().dictionary_encode())
        rows.append(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False) + first)
    if not encoded:
        return [], rows[0], rows[0]

    chunks = pa.chunked_array(encoded).unify_dictionaries().chunks
    part_P = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in chunks])
    return chunks[0].dictionary.to_pylist(), part_P, np.concatenate(rows)


def _sums(counts: np.ndarray) -> np.ndarray:
    """Returns the sums of the counts before each place and of all, int64."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the numbers of several ranges, one range after another.

    >>> _ranges(np.array([7, 2]), np.array([2, 3])).tolist()
    [7, 8, 2, 3, 4]
    """
    shift = np.repeat(first - _sums(counts)[:-1], counts)
    return np.arange(len(shift)) + shift
