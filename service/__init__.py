"""The memory and the voice of moverank: documents, indexes, jobs, and HTTP around them.

| module | what it does |
|---|---|
| `settings`, `errors`, `schemas`, `access` | knobs, what can go wrong, bodies, keys |
| `documents`, `filters` | texts, metadata and vectors by id in SQLite: the truth |
| `vector_index`, `lexical`, `lexical_query`, `snapshots`, `mapped_memory` | FAISS and BM25, derived from the store |
| `collections`, `locks` | a store and its indexes in step |
| `batching`, `lanes`, `encoder_thread`, `turns` | many small calls -> few forwards |
| `indexing`, `search` | documents in; answers out |
| `ranking`, `token_lists`, `alignment` | transport over a pool or a whole collection, whose token ids are in memory; why |
| `corpus_files`, `file_formats`, `parquet_values`, `numbered_lines` | files of any length in |
| `document_rules`, `long_integers`, `imports`, `jobs` | what may be in them, and the work on them |
| `runtime`, `app`, `routes`, `cli`, `reindex` | wiring, HTTP, commands |
"""

import models  # noqa: F401 - settles how idle OpenMP threads wait, before torch and FAISS are loaded
