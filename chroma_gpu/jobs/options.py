"""What an embedding job is told, in one value: the flags of the command, the arguments of ``jobs.embed``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from chroma_gpu.errors import InvalidArgumentError

Format: TypeAlias = Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt", "md", "html", "hf", "sql"]
Chunking: TypeAlias = Literal["none", "chars", "tokens", "sentences", "markdown"]
OnConflict: TypeAlias = Literal["upsert", "skip", "error"]
OnError: TypeAlias = Literal["dead-letter", "skip", "fail"]
Space: TypeAlias = Literal["cosine", "l2", "ip"]
Dtype: TypeAlias = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """Everything that ``embed`` can be told. Defaults are those of the command.

    inputs          files, folders, globs, "-" for stdin
    collection      name of the collection that the rows go into; None: into ``out`` alone
    path            data directory
    format          of every input; "auto" goes by the ends of their names
    sql, database   a query, and the SQLite file that it is asked of
    files_glob      which files of a folder are read
    encodings       of text files; the first that fits a file is taken
    id_column       column with ids; None is "id" where there is one; where there is none, ids are made of the text
    text_columns    columns with text, joined by ``join``; empty is "text", "document" or "content", the first that is there
    metadata_columns  columns kept as metadata; None is all the others, empty is none
    vector_column   column with vectors that are made already: then nothing is embedded
    uri_column      column with uris
    prefix_id       put before every id
    chunk, chunk_size, chunk_overlap  how texts are cut; sizes in characters for "chars" and "markdown", in tokens of the model for
                    "tokens" and "sentences"
    model           a name as the command takes it; None is the collection's own, or all-MiniLM-L6-v2 for a new one
    revision        which version of a model on the hub
    prompt, prompt_name, instruction  what is put before every text; at most one of them
    truncate_dim, normalize  how many numbers of each vector are kept; whether vectors get norm 1: both None leaves it to the model
    device          "auto", "cpu", "cuda", "cuda:0,cuda:1", "all"
    dtype           what the model computes in: "auto" is 16 bits where the device is made for them and the vectors stay right
    batch_tokens    padded tokens in a batch; None is found out
    space           distance of a new collection
    on_conflict     rows whose id is there: "upsert" embeds them if the text is another one, "skip" leaves what is there, "error" makes
                    them bad rows
    dedupe          None, "exact": texts that are there already, or a cosine: texts whose vector is that near to one that is there
    on_error        bad rows: "dead-letter" and "skip" go on, "fail" ends the job
    dead_letter     file for bad rows; None is beside the data directory, named after collection and job: NAME-0a1b2c3d.bad.jsonl
    max_errors      bad rows after which the job ends: a number, or a share of the rows read (0.01 is 1 %); None is no end
    resume          go on where this very job stopped
    checkpoint_every, checkpoint_seconds  rows, and seconds, after which what is embedded is committed
    cache           whether vectors of texts are remembered and looked up: as ``Settings.embedding_cache`` says, or not at all
    limit, offset, sample, seed  which rows: the first so many after so many; a share of them (0 to 1), drawn by ``seed``
    out             a parquet file for ids, texts, metadata and vectors
    """

    inputs: tuple[str, ...] = ()
    collection: str | None = None
    path: str = "./chroma"
    format: Format = "auto"
    sql: str | None = None
    database: str | None = None
    files_glob: str = "**/*"
    encodings: tuple[str, ...] = ("utf-8",)
    id_column: str | None = None
    text_columns: tuple[str, ...] = ()
    join: str = "\n"
    metadata_columns: tuple[str, ...] | None = None
    vector_column: str | None = None
    uri_column: str | None = None
    prefix_id: str = ""
    chunk: Chunking = "none"
    chunk_size: int = 512
    chunk_overlap: int = 64
    model: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    instruction: str | None = None
    revision: str | None = None
    truncate_dim: int | None = None
    normalize: bool | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    batch_tokens: int | None = None
    space: Space = "cosine"
    on_conflict: OnConflict = "upsert"
    dedupe: Literal["exact"] | float | None = None
    on_error: OnError = "dead-letter"
    dead_letter: Path | None = None
    max_errors: int | float | None = None
    resume: bool = True
    checkpoint_every: int = 10_000
    checkpoint_seconds: float = 10.0
    cache: bool = True
    limit: int | None = None
    offset: int = 0
    sample: float | None = None
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError for what no job can be."""
        if self.collection is None and self.out is None:
            raise InvalidArgumentError("there is nowhere to write to.", hint="Name a collection with -c, or a file with --out.")
        for given in ("checkpoint_every", "chunk_size", "batch_tokens", "truncate_dim"):
            value = getattr(self, given)
            if value is not None and value < 1:
                raise InvalidArgumentError(f"{given} must be 1 or more, got {value}.")
        if self.checkpoint_seconds <= 0:
            raise InvalidArgumentError(f"checkpoint_seconds must be above 0, got {self.checkpoint_seconds}.")
        if self.max_errors is not None and self.max_errors < 0:
            raise InvalidArgumentError(f"max_errors must be 0 or more, got {self.max_errors}.")
        if sum(each is not None for each in (self.prompt, self.prompt_name, self.instruction)) > 1:
            raise InvalidArgumentError("prompt, prompt_name and instruction say the same thing: give one of them.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}.")


_CHOICES: Final = {
    "format": get_args(Format),
    "chunk": get_args(Chunking),
    "on_conflict": get_args(OnConflict),
    "on_error": get_args(OnError),
    "dtype": get_args(Dtype),
    "space": get_args(Space),
}
