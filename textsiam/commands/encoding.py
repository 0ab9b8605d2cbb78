"""Commands that need no decision: encode texts, match queries to documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from textsiam.commands.options import Json, Model, open_twin
from textsiam.terminal import escaped, make_console, print_json, progress_bar, rounded, say, warn


def encode(
    model: Model,
    texts: Annotated[str, typer.Argument(help="Texts: .txt, .tsv, .csv, .jsonl, .parquet, or sample:forum.")],
    output: Annotated[Path, typer.Option(help="Write the vectors here: .npy, one float32 row a text, in order.")],
    column: Annotated[str | None, typer.Option(help="Name of the column that holds the texts.")] = None,
    side: Annotated[Literal["left", "right"], typer.Option(help="Which tower of an asymmetric twin.")] = "left",
    precision: Annotated[Literal["auto", "fp32", "bf16"], typer.Option(help="Number format.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Use torch.compile: for large jobs on a GPU.")] = False,
    as_json: Json = False,
) -> None:
    """Encode the texts of a file into vectors of length 1: a .npy file that can be mapped into memory."""
    from textsiam.sources import read_texts

    read = read_texts(texts, column=column)
    warn(read.report.warnings)
    twin = open_twin(model)
    from textsiam.data.tables.arrays import save_vectors

    with progress_bar("encoding") as progress:
        done = 0

        def counted() -> Iterator[Any]:
            nonlocal done
            for block in twin.encode_stream(read.texts, side=side, precision=precision, compiled=compiled):
                yield block
                done += len(block)
                progress(done, len(read))

        rows = save_vectors(output, counted(), dim=twin.dim)
    if as_json:
        print_json({"vectors": rows, "dim": twin.dim, "output": str(output)})
    else:
        say(f"{rows:,} vectors of {twin.dim} dimensions written to {output}")


def match(
    model: Model,
    queries: Annotated[str, typer.Option(help="File of queries.")],
    documents: Annotated[str, typer.Option(help="File of documents.")],
    top_k: Annotated[int, typer.Option(help="Documents for each query.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Write the matches here: .tsv, .csv or .jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Find the most similar documents of each query."""
    from textsiam.sources import read_texts

    asked, library = read_texts(queries), read_texts(documents)
    twin = open_twin(model)
    from textsiam.search.nearest import best_matches

    with progress_bar("encoding documents") as progress:
        vectors = twin.encode(library.texts, side="right", progress=progress)
    where, similarity = best_matches(twin, twin.encode(asked.texts, side="left"), vectors, top_k)
    rows = [
        {
            "query_id": asked.ids[q],
            "rank": rank + 1,
            "document_id": library.ids[d],
            "similarity": rounded(float(similarity[q, rank])),
            "query": asked.texts[q],
            "document": library.texts[d],
        }
        for q in range(len(asked))
        for rank, d in enumerate(where[q].tolist())
    ]
    if output is not None:
        from textsiam.data.tables.writers import write_table

        write_table(output, list(rows[0]), rows)
        say(f"{len(rows):,} matches written to {output}")
    elif as_json:
        print_json(rows)
    else:
        console = make_console()
        for row in rows:
            if row["rank"] == 1:
                console.print(f"[bold]{escaped(row['query'])}[/]  [dim]{row['query_id']}[/]", highlight=False)
            text = row["document"] if len(row["document"]) <= 100 else row["document"][:99] + "…"
            console.print(f"  {row['similarity']:.4f}  {escaped(text)}  [dim]{row['document_id']}[/]", highlight=False)
