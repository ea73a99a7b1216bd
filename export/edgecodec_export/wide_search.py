"""The wide search for codes, as a branch of an ONNX graph: so many paths after every stage as a run-time input says.

    for each stage that is asked for:
        the sums of scores of all entries, for all paths of a frame     [N * paths, K], one product
        the best `paths` sums of each frame                             [N, paths], see `_add_choice`
        their paths, one stage on                                       [N * paths, D + 2]

It finds what `edgecodec_training.codebook_search.search` finds with the same count after every stage.

A path is a row (residual | sum of its scores | 1), an entry of a codebook a row (vector | 1 | bias): their product is
the sum with this entry, so that nothing is added to the K scores of every path. One table serves search and lookup.

TopK looks at each number for itself. Of every 16 entries ReduceMax therefore finds the best one first, with vector
instructions; the best entries are in the groups that have the best ones.
Measured with 1024 entries, D = 80, 64 frames of 8 paths, one thread, ms of CPU time for a stage: the product 1.0, TopK
of all sums 0.7, by groups 0.2, all other nodes 0.2. 8 stages take 6 ms with 4 paths, 11.5 with 8 and 24 with 16, where
the paths as exported take 4.3 (groups of 8 to 64 entries: within 4 % of that).

A Loop gathers each stage's table, 8 % of the product; branches that hold the tables as constants, as `quantizer_graphs`
has them, would take memory twice over and longer to load. What the search costs where it is not asked for: one node,
with one stage also a branch, 3 µs.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, TensorProto, helper

from .graph_builder import GraphBuilder
from .stored_tables import StoredTables

_GROUP = 16  # entries, at most


def add_wide_search(rows: str, stored: StoredTables, part: GraphBuilder) -> str:
    """Add the search to a branch of a graph with the inputs `n_stages` and `paths`; the name of codes [n_stages, N].

    `rows` are the latents [N, D].
    """
    return _WideSearch(rows, stored, part).add()


class _WideSearch:
    """The search in the making.

    Groups are of entries side by side. In the table of a stage the first ones of all groups come first, then the second
    ones, and so on: ReduceMax is twice as fast where the members of a group are far apart.
    """

    def __init__(self, rows: str, stored: StoredTables, part: GraphBuilder) -> None:
        self.rows, self.stored, self.part, self.entries = rows, stored, part, stored.entries
        self.size = math.gcd(self.entries, _GROUP)
        self.groups = self.entries // self.size
        self.order = np.arange(self.entries).reshape(self.groups, self.size).T.ravel()  # entries of the table's rows
        one = part.constant("one_element", [1])
        self.frames = part.add("Shape", [rows], "wide_frames", end=1)  # [1]
        self.by_frame = part.add("Concat", [self.frames, part.constant("minus_one", [-1])], "by_frame", axis=0)
        self.wanted = part.add("Reshape", ["paths", one], "wanted")  # [1]
        count = part.add("Squeeze", [self.frames], "wide_frame_count")
        numbers = part.add("Range", [part.constant("zero", 0), count, part.constant("one", 1)], "wide_frame_numbers")
        self.frame_column = part.add("Reshape", [numbers, part.constant("as_column", [-1, 1])], "wide_frame_column")

    def add(self) -> str:
        """Add all stages; the name of codes [n_stages, N]."""
        part, one = self.part, self.part.constant("one_element", [1])
        zeros = part.add("ConstantOfShape", [part.add("Concat", [self.frames, one], "column", axis=0)], "no_scores")
        shape = part.add("Concat", [self.frames, part.constant("no_element", [0])], "frames_by_none", axis=0)
        whole = helper.make_tensor("value", TensorProto.INT64, [1], [0])
        nothing = part.add("ConstantOfShape", [shape], "no_entries", value=whole)
        inputs, chosen = ["n_stages", "", self.rows, zeros, nothing], part.name("chosen_of_paths")
        body = self._stage(part.inner())
        part.add("Loop", inputs, "last_residual", part.name("last_merit"), chosen, body=body)
        # Of each frame, what its first path chose, which is the best one.
        stage_count = part.add("Reshape", ["n_stages", one], "stage_count")
        shape = part.add("Concat", [self.by_frame, stage_count], "by_frame_and_path", axis=0)
        chosen = part.add("Reshape", [chosen, shape], "chosen_by_frame")
        chosen = part.add("Gather", [chosen, part.constant("zero", 0)], "chosen_of_best", axis=1)
        chosen = part.add("Transpose", [chosen], "chosen_by_stage", perm=[1, 0])  # [n_stages, N]
        return part.add("Gather", [part.constant("order", self.order), chosen], "codes_of_best")

    def _stage(self, part: GraphBuilder) -> GraphProto:
        """The body: residuals of all paths [R, D], sums of their scores [R, 1], rows of tables that they chose [R, i].

        It takes them from before stage i to after it.
        """
        vectors, biases = self.stored.add_turned("stage", self.size, part)
        sums = self._add_sums("residual_before", "merit_before", vectors, biases, part)
        merit, flat = self._add_choice(sums, part)
        entries, column = part.constant("entries", self.entries), part.constant("as_column", [-1, 1])
        parent, row = part.add("Div", [flat, entries], "parent"), part.add("Mod", [flat, entries], "row")
        before = part.add("Gather", ["residual_before", parent], "residual_of_parents", axis=0)
        residual = part.add("Sub", [before, part.add("Gather", [vectors, row], "vectors_of_paths", axis=0)], "residual")
        chosen = part.add("Gather", ["chosen_before", parent], "chosen_of_parents", axis=0)
        chosen = part.add("Concat", [chosen, part.add("Reshape", [row, column], "row_column")], "chosen", axis=1)
        more, merit = (
            part.add("Identity", ["more_before"], "more"),
            part.add("Reshape", [merit, column], "merit_column"),
        )
        value = helper.make_tensor_value_info
        inputs = [value("stage", TensorProto.INT64, []), value("more_before", TensorProto.BOOL, [])]
        inputs += [value(f"{name}_before", TensorProto.FLOAT, None) for name in ("residual", "merit")]
        inputs.append(value("chosen_before", TensorProto.INT64, None))
        outputs = [value(more, TensorProto.BOOL, [])]
        outputs += [value(name, TensorProto.FLOAT, None) for name in (residual, merit)]
        outputs.append(value(chosen, TensorProto.INT64, None))
        return helper.make_graph(part.nodes, "stage_of_paths", inputs, outputs, part.constants)

    def _add_sums(self, residual: str, merit: str, vectors: str, biases: str, part: GraphBuilder) -> str:
        """The sums of scores with every entry, [R, K]: (residual | merit | 1) times (vector | 1 | bias)."""
        one = part.constant("a_one", [[1]], np.float32)
        count = part.add("Shape", [merit], "path_count")
        paths = part.add(
            "Concat", [residual, merit, part.add("Expand", [one, count], "path_ones")], "rows_of_paths", axis=1
        )
        ones = part.constant("ones", np.ones((self.entries, 1)), np.float32)
        table = part.add("Concat", [vectors, ones, biases], "rows_of_entries", axis=1)
        return part.add("Gemm", [paths, table], "sums", transB=1)

    def _add_choice(self, sums: str, part: GraphBuilder) -> tuple[str, str]:
        """The best sums of each frame [N, paths], and which of all sums [R * K] they are [N * paths].

        Of equal sums the first one wins: groups are looked through in their order.
        """
        groups, entries = part.constant("groups", self.groups), part.constant("entries", self.entries)
        of_groups = part.add(
            "Reshape", [sums, part.constant("members", [-1, self.size, self.groups])], "sums_of_groups"
        )
        best = part.add("ReduceMax", [of_groups, part.constant("one_element", [1])], "best_of_groups", keepdims=0)
        best = part.add("Reshape", [best, self.by_frame], "best_of_groups_by_frame")  # [N, paths * groups]
        kept, group = self._add_kept(best, part), part.name("best_groups")
        part.add("TopK", [best, kept], "sums_of_best_groups", group, axis=1)
        group = part.add("TopK", [group, kept], "groups_in_order", part.name("order"), axis=1, largest=0)
        path = part.add("Div", [group, groups], "path")
        first = part.add("Mul", [path, entries], "first_of_path")
        first = part.add("Add", [first, part.add("Mod", [group, groups], "group")], "first_of_group")
        first = part.add("Unsqueeze", [first, part.constant("minus_one", [-1])], "first_of_groups")
        steps = part.constant("steps", np.arange(self.size) * self.groups)
        where = part.add("Reshape", [part.add("Add", [first, steps], "members_of_group"), self.by_frame], "candidates")
        of_frames = part.add("Reshape", [sums, self.by_frame], "sums_by_frame")  # [N, paths * K]
        candidates = part.add("GatherElements", [of_frames, where], "sums_of_candidates", axis=1)
        place = part.name("place")
        merit = part.add("TopK", [candidates, self._add_kept(candidates, part)], "merit", place, axis=1)
        where = part.add("GatherElements", [where, place], "chosen_of_frame", axis=1)
        width = part.add("Shape", [of_frames], "width", start=1, end=2)
        start = part.add("Mul", [self.frame_column, width], "start_of_frame")
        flat = part.add(
            "Reshape", [part.add("Add", [where, start], "flat_by_frame"), part.constant("as_list", [-1])], "flat"
        )
        return merit, flat

    def _add_kept(self, sums: str, part: GraphBuilder) -> str:
        """How many of sums [N, n] are kept: as many as wanted, if there are."""
        return part.add("Min", [self.wanted, part.add("Shape", [sums], "there", start=1, end=2)], "kept")
