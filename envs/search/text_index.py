"""The embedded text search: a tantivy index (BM25, English stemming), in memory or in a directory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import tantivy

from envs.protocol import encodable
from envs.search.storage import built_beside
from envs.search.types import Document, Passage
from envs.types import UsageError

PASSAGE_WORDS = 120
SNIPPET_CHARACTERS = 400
_TITLE_BOOST = 2.0
_QUERY_WORDS = 64
_HEAP_BYTES = 128 << 20  # what the writer gathers before it writes a segment: memory does not grow with the corpus
_FEW = 10_000
_OPERATORS = re.compile(r"\b(AND|OR|NOT|IN)\b")


class TextIndex:
    """Finds passages by their words. Thread-safe; searching runs beside the event loop. Made by `build` or `open`."""

    def __init__(self, index: tantivy.Index) -> None:
        self._index = index
        self._index.config_reader(reload_policy="manual")
        self._index.reload()
        self._searcher = index.searcher()

    @classmethod
    def build(
        cls, documents: Iterable[Document], directory: Path | None = None, on_progress: Callable[[int], None] | None = None
    ) -> TextIndex:
        """Indexes `documents` as they come, in memory or in a new `directory`, which appears when it is whole.

        A long text is cut into passages of about `PASSAGE_WORDS` words at the ends of sentences; each is found for itself, under
        the document's title. `on_progress` is told the number of documents so far. Raises UsageError where `directory` exists.
        """
        if directory is None:
            index = tantivy.Index(_schema())
            _write(index, documents, on_progress)
            return cls(index)
        with built_beside(directory) as unfinished:
            _write(tantivy.Index(_schema(), path=str(unfinished)), documents, on_progress)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path) -> TextIndex:
        """Raises UsageError where there is no index."""
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
        """See `TextSearch`. Words are what counts of a query; a phrase may stand in double quotes. Any text is a query."""
        return await asyncio.to_thread(lambda: [self.find(query, top_k) for query in queries])

    def find(self, query: str, top_k: int) -> list[Passage]:
        """The same for one query, at once."""
        parsed, _ = self._index.parse_query_lenient(plain_query(query), ["title", "body"], {"title": _TITLE_BOOST})
        hits = self._searcher.search(parsed, top_k, count=False).hits
        return [self._passage(parsed, address) for _, address in hits]

    def _passage(self, query: tantivy.Query, address: tantivy.DocAddress) -> Passage:
        document = self._searcher.doc(address)
        body = document.get_first("body") or ""
        if len(body) > SNIPPET_CHARACTERS:
            generator = tantivy.SnippetGenerator.create(self._searcher, query, self._index.schema, "body")
            generator.set_max_num_chars(SNIPPET_CHARACTERS)
            fragment = generator.snippet_from_doc(document).fragment()
            body = fragment or f"{body[:SNIPPET_CHARACTERS]} …"
        return Passage(document.get_first("title") or "", document.get_first("source") or "", body)


def plain_query(query: str) -> str:
    """The words and quoted phrases of what a model wrote, without anything that the query language would take for an operator.

    At most `_QUERY_WORDS` words: more would only cost time.
    """
    words = re.sub(r'[^\w"]+', " ", query[: _QUERY_WORDS * 32]).split()[:_QUERY_WORDS]
    text = _OPERATORS.sub(lambda match: match.group().lower(), " ".join(words))
    return text if text.count('"') % 2 == 0 else text.replace('"', " ")


def passages(text: str, words: int = PASSAGE_WORDS) -> Iterator[str]:
    """A text in pieces of about `words` words that end where sentences do; a sentence longer than that is cut."""
    piece: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|\n{2,}", text):
        said = sentence.split()
        if piece and len(piece) + len(said) > words:
            yield " ".join(piece)
            piece = []
        while len(said) > words:
            yield " ".join(said[:words])
            said = said[words:]
        piece += said
    if piece:
        yield " ".join(piece)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("title", stored=True, tokenizer_name="en_stem")
    builder.add_text_field("body", stored=True, tokenizer_name="en_stem")
    builder.add_bytes_field("source", stored=True, indexed=False)
    return builder.build()


def _write(index: tantivy.Index, documents: Iterable[Document], on_progress: Callable[[int], None] | None) -> None:
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)  # one thread: the same corpus gives the same index
    count = 0
    try:
        for count, document in enumerate(documents, 1):
            for passage in passages(document.text):
                fields = {"title": document.title, "body": passage, "source": document.source}
                writer.add_document(tantivy.Document(**{name: encodable(text) for name, text in fields.items()}))
            if on_progress is not None and count % _FEW == 0:
                on_progress(count)
        writer.commit()
    finally:
        writer.wait_merging_threads()  # else its threads would write on into a directory that is being removed
    if on_progress is not None:
        on_progress(count)
