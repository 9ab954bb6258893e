"""The embedded text search: a tantivy index (BM25, English stemming), in memory or in a directory.

Title and text are indexed together in one field, the title `_TITLE_WEIGHT` times: a simple form of BM25F (Robertson, Zaragoza and
Taylor 2004). The title is also indexed alone in another field, in which the frequency of its words is that in titles, however many
texts mention them. A short query is one flat disjunction of terms over both fields, a longer one over the first, the form that
tantivy answers by block-max WAND (Ding and Suel 2011). Scripts without spaces are indexed in pieces (see `segmentation`).
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tantivy

from envs.errors import UsageError
from envs.protocols.text import encodable
from envs.runtime.atomic import new_directory
from envs.search.text.segmentation import as_letters, in_words, normalised, passages
from envs.search.types import Document, Passage

SNIPPET_CHARACTERS = 400
_TITLE_WEIGHT = 3
_QUERY_WORDS = 64
_QUERY_TERMS = 128
_HEADING_TERMS = 4  # a query of more words is not a title, and each of its clauses costs time
_ANALYZER = "international"
_LONGEST_WORD_BYTES = 1000
_LATIN_BYTES = 1.2  # bytes per character of a text in Latin script, accents included
_WORDS, _HEADING = _FIELDS = ("terms", "title_terms")  # what is indexed; the other fields are only stored
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»「」『』《》〈〉＂", '"'))
_HEAP_BYTES = 128 << 20  # what the writer gathers before it writes a segment: memory does not grow with the corpus
_FEW = 10_000
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about an and any are as at be been but by can could did do does for from had has have he her his how i if in into is "
        "it its me my no not of on or our s she should so such t than that the their them then there these they this those to was "
        "we were what when where which who whom whose why will with would you your",
    )
)


class TextIndex:
    """Finds passages by their words. Thread-safe; `search` runs outside the event loop's thread. Made by `build` or `open`."""

    def __init__(self, index: tantivy.Index) -> None:
        self._index, self._analyzer = index, _analyzer()
        index.register_tokenizer(_ANALYZER, self._analyzer)
        index.config_reader(reload_policy="manual")
        index.reload()
        self._searcher = index.searcher()
        self._term(_HEADING, "")  # ValueError if the index has another schema

    @classmethod
    def build(
        cls, documents: Iterable[Document], directory: Path | None = None, on_progress: Callable[[int], None] | None = None
    ) -> TextIndex:
        """Indexes `documents` one by one, in memory or in a new `directory`, which appears when it is complete.

        A long text is cut into passages of about `PASSAGE_WORDS` words at the ends of sentences; each is a result of its own, under
        the document's title. `on_progress` gets the number of documents so far. Raises UsageError if `directory` exists.
        """
        if directory is None:
            index = tantivy.Index(_schema())
            _write(index, documents, on_progress)
            return cls(index)
        with new_directory(directory) as unfinished:
            _write(tantivy.Index(_schema(), path=str(unfinished)), documents, on_progress)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> TextIndex:
        """The index of a directory. Raises UsageError if there is none or it cannot be read."""
        if not directory.is_dir() or not tantivy.Index.exists(str(directory)):
            raise UsageError(f"{directory} holds no text index: build one with `toolwise index corpus=FILE out={directory}`")
        try:
            return cls(tantivy.Index.open(str(directory)))
        except (ValueError, OSError) as error:
            raise UsageError(
                f"{directory}: the text index cannot be read ({' '.join(str(error).split())}): build it again"
            ) from None

    def __len__(self) -> int:
        """Number of passages."""
        return self._searcher.num_docs

    async def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """See `TextSearch`. A query is a set of words; a phrase may be put in double quotes. Any text is a valid query."""
        return await asyncio.to_thread(lambda: [self.find(query, top_k) for query in queries])

    def find(self, query: str, top_k: int) -> list[Passage]:
        """As `search`, for one query and synchronous."""
        return [passage for _, passage in self.find_scored(query, top_k)]

    def find_scored(self, query: str, top_k: int) -> list[tuple[float, Passage]]:
        """As `find`, with BM25's score of each passage."""
        words, phrases = _words_and_phrases(query)
        pieces, shorter = in_words(" ".join(words))
        terms = list(dict.fromkeys(self._analyzer.analyze(pieces)))[:_QUERY_TERMS]  # each once, in order
        fields = _FIELDS if len(terms) <= (2 * _HEADING_TERMS if shorter else _HEADING_TERMS) else (_WORDS,)
        clauses = [self._term(name, term) for term in terms for name in fields]
        for phrase in phrases:
            if len(stems := self._analyzer.analyze(in_words(phrase)[0])) > 1:
                clauses.append(tantivy.Query.phrase_query(self._index.schema, _WORDS, list(stems)))
        parsed = tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])
        hits = self._searcher.search(parsed, top_k, count=False).hits
        if not hits:
            return []
        snippets = tantivy.SnippetGenerator.create(self._searcher, parsed, self._index.schema, _WORDS)
        snippets.set_max_num_chars(SNIPPET_CHARACTERS)
        return [(score, self._passage(snippets, terms, address)) for score, address in hits]

    def _term(self, field: str, term: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._index.schema, field, term)

    def _passage(self, snippets: tantivy.SnippetGenerator, terms: Sequence[str], address: tantivy.DocAddress) -> Passage:
        document = self._searcher.doc(address)
        body = document.get_first("body") or ""
        if len(body) > SNIPPET_CHARACTERS:
            fragment = ""
            if len(body.encode()) <= _LATIN_BYTES * len(body):  # in other scripts tantivy's snippets know no words, and count bytes
                fragment = snippets.snippet_from_doc(tantivy.Document(**{_WORDS: body})).fragment()
            body = fragment or (f"{body[:SNIPPET_CHARACTERS]} …" if body.isascii() else _densest_part(body, terms))
        return Passage(document.get_first("title") or "", document.get_first("source") or "", body)


def _densest_part(body: str, terms: Sequence[str]) -> str:
    """The `SNIPPET_CHARACTERS` of a longer text that hold most of the terms, marked where they were cut off."""
    lowered = as_letters(body.lower())
    found = sorted((place.start(), term) for term in terms for place in re.finditer(re.escape(term), lowered))
    starts = [place for place, _ in found] or [0]

    def terms_from(start: int) -> int:
        return len({term for place, term in found if start <= place < start + SNIPPET_CHARACTERS - len(term)})

    best = max(starts, key=terms_from) - SNIPPET_CHARACTERS // 8  # with some words of what comes before
    best = max(0, min(best, len(body) - SNIPPET_CHARACTERS))
    part = body[best : best + SNIPPET_CHARACTERS]
    return f"{'… ' if best else ''}{part}{' …' if best + SNIPPET_CHARACTERS < len(body) else ''}"


def _words_and_phrases(query: str) -> tuple[list[str], list[str]]:
    """The words of a query without stop words (with them, if it has no others), and its phrases in double quotes.

    At most `_QUERY_WORDS` words: more would only cost time.
    """
    query = normalised(query[: _QUERY_WORDS * 32])
    words = _separated(query).split()[:_QUERY_WORDS]
    *parts, last = " ".join(words).split('"')
    phrases = parts[1::2]  # a quote that is never closed opens no phrase
    words = " ".join([*parts, last]).split()
    return [word for word in words if word.lower() not in _STOP_WORDS] or words, phrases


def _separated(query: str) -> str:
    """The query with a space for each character that belongs to no word and is no quote."""
    if query.isascii():
        return re.sub(r'[^\w"]+', " ", query)
    query = query.translate(_QUOTES)
    return "".join(each if each == '"' or unicodedata.category(each)[0] in "LMN" else " " for each in query)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(_WORDS, tokenizer_name=_ANALYZER)
    builder.add_text_field(_HEADING, tokenizer_name=_ANALYZER, index_option="freq")
    for name in ("title", "body", "source"):
        builder.add_bytes_field(name, stored=True, indexed=False)
    return builder.build()


def _analyzer() -> tantivy.TextAnalyzer:
    """An analyzer that lower-cases words, removes accents and stems. Stop words stay, for phrases; queries leave them out."""
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (tantivy.Filter.remove_long(_LONGEST_WORD_BYTES), tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold()):
        builder = builder.filter(step)
    return builder.filter(tantivy.Filter.stemmer("english")).build()


def _write(index: tantivy.Index, documents: Iterable[Document], on_progress: Callable[[int], None] | None) -> None:
    index.register_tokenizer(_ANALYZER, _analyzer())
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)  # one thread: the same corpus gives the same index
    count = 0
    try:
        for count, document in enumerate(documents, 1):
            title, source = encodable(document.title), encodable(document.source)
            heading = in_words(normalised(title))
            for passage in passages(encodable(document.text)) if document.text.strip() else ("",):
                entry = tantivy.Document(title=title, body=passage, source=source)
                for value in filter(None, heading):
                    entry.add_text(_HEADING, value)
                for value in filter(None, (*heading * _TITLE_WEIGHT, *in_words(normalised(passage)))):
                    entry.add_text(_WORDS, value)  # separate values: no phrase can span two of them
                writer.add_document(entry)
            if on_progress is not None and count % _FEW == 0:
                on_progress(count)
        writer.commit()
    finally:
        writer.wait_merging_threads()  # else its threads would write on into a directory that is being removed
    if on_progress is not None:
        on_progress(count)
