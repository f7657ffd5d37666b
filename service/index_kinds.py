"""What a FAISS factory string asks for: judged by reading it, before FAISS makes anything of it.

"auto" chooses by the number of vectors; the measurements behind it are printed by scripts/benchmark/index.py.
"""

import re

EXACT_LIMIT = 20_000  # vectors: comparing all costs about 0.7 ms at 256 dimensions on one core
LEAST_INDEXED = 256  # vectors: below, no index is worth making

_TRAINED_RANGE = 1 / 2, 4  # times the size it was trained at: outside, an index is trained anew
_LISTS_FROM = 1_000_000  # vectors from which "auto" puts the codes into inverted lists
_POINTS_PER_CENTROID = 39  # FAISS warns below
_POINTS_PER_TRAINING = 1000  # of kinds without centroids
_LONGEST, _LARGEST_NUMBER, _MOST_LINKS = 100, 1 << 16, 256
_MOST_BITS, _LARGEST_CODEBOOK = 12, 1 << 26  # numbers


def check_kind(factory: str, dim: int) -> None:
    """Raise ValueError for a factory string that could take memory or time without bound."""
    numbers = [int(n) for n in re.findall(r"\d+", factory[:_LONGEST])]
    if len(factory) > _LONGEST or not all(0 < n <= _LARGEST_NUMBER for n in numbers):
        raise ValueError(f"index {factory[:_LONGEST]!r}: at most {_LONGEST} characters, numbers 1 to {_LARGEST_NUMBER}")
    if "NSG" in factory:
        raise ValueError(f"index {factory!r}: FAISS cannot add to an NSG index")
    if any(int(links) > _MOST_LINKS for links in re.findall(r"HNSW(\d+)", factory)):
        raise ValueError(f"index {factory!r}: at most {_MOST_LINKS} links")
    for parts, bits in re.findall(r"(\d+)x(\d+)", factory):
        if int(bits) > _MOST_BITS or int(parts) * dim << int(bits) > _LARGEST_CODEBOOK:
            raise ValueError(f"index {factory!r}: codes of {parts}x{bits} bits are too large for {dim} dimensions")


def without_numbering(factory: str) -> str:
    """Drop leading "IDMap," parts: the rows are numbered here anyway."""
    return re.sub(r"^(IDMap2?,)+", "", factory)


def chosen_kind(vectors: int, dim: int, on_gpu: bool) -> str:
    """Return the factory string that "auto" means for so many vectors."""
    lists = f"IVF{1 << (int(4 * vectors**0.5).bit_length() - 1)}," if vectors >= _LISTS_FROM else ""
    return lists + ("Flat" if on_gpu else f"PQ{dim if dim % 2 else dim // 2}x4fs")


def lists_of(factory: str) -> int:
    """Return the number of inverted lists, 0 if there are none."""
    return max(map(int, re.findall(r"IVF(\d+)", factory)), default=0)


def has_short_codes(factory: str) -> bool:
    """Say whether the index keeps so little of a vector that many candidates are needed to find the nearest."""
    return re.search(r"PQ|RQ|LSQ|RaBitQ|SQ4|LSH|Lattice|PCA|Residual|ITQ", factory) is not None


def is_graph(factory: str) -> bool:
    """Say whether the vectors themselves (not only centroids) are linked to a graph that is searched by HNSW."""
    return re.search(r"(^|,)HNSW", factory) is not None


def points_needed(factory: str) -> int:
    """Return how many vectors training needs; the least worth an index where it needs none."""
    bits = [int(b) for b in re.findall(r"\d+x(\d+)", factory)] + [8] * bool(re.search(r"PQ\d+(?![\dx])", factory))
    centroids = max([lists_of(factory), *(1 << b for b in bits if b <= _MOST_BITS)], default=0)
    is_trained = re.search(r"PCA|OPQ|ITQ|SQ|RaBitQ|IVF|PQ|RQ", factory) is not None
    return max(LEAST_INDEXED, _POINTS_PER_CENTROID * centroids, _POINTS_PER_TRAINING if is_trained else 0)


def is_fresh(factory: str, trained_on: int, vectors: int) -> bool:
    """Say whether the training of an index still fits so many vectors."""
    least, most = (bound * trained_on for bound in _TRAINED_RANGE)
    return least <= vectors < most or points_needed(factory) == LEAST_INDEXED


def reason(error: RuntimeError) -> str:
    """Return what FAISS said, without the place in its source ("Error in … at …/index_factory.cpp:1228: …")."""
    said = re.sub(r"^Error in .*? at \S+:\d+:\s*", "", str(error), flags=re.DOTALL)
    return said.rpartition("Error: ")[2].strip()
