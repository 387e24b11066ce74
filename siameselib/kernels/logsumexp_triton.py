"""On a GPU: the sums of :mod:`siameselib.kernels.logsumexp` and of ``positive_sum`` beside it.

The far tiles, of pure negatives, are products on the tensor cores. The near ones, where identities
meet, are few: their products are taken in float32, a few rows and columns at a time, so that the
pairs that weigh the most are exact. Positives need no other tiles. A sweep that sums gives each
row its log-sum-exp; the sweep that weighs makes the gradient of a row whole, its part as a column
of others included, for by then the sums of both are known.

Where e^f needs no running maximum, because f is in [-scale, scale] and the scale moderate, one
exponential serves both roles of a pair.
"""

import math
from typing import Any

import torch
from torch import Tensor

from siameselib.kernels import sums_triton, weights_triton
from siameselib.kernels.factors_triton import HEIGHT, cut
from siameselib.kernels.score import Score
from siameselib.kernels.sides_triton import Side, near_constants, sides
from siameselib.kernels.tiles_triton import FUSED, parts, processors

_STATIC = 40  # scale up to which e^f, shifted by it, stays in the range of float32
_NOTHING = -1e9  # the similarity of a vector that only fills up a tile
_LOG2E = 1 / math.log(2)


class Matrix:
    """The similarities of a problem, f of which is summed and weighed.

    A vector has six states, numbers to the base 2 but for the first: what to add to its products;
    its floor; its sum; the gradient of that; the first one for the far tiles, shifted where
    static; and, static, what the gradient multiplies the shifted e^f by.
    """

    def __init__(
        self,
        x: Tensor,
        ids: Tensor | None,
        y: Tensor | None,
        y_ids: Tensor | None,
        floor: Tensor | None,
        score: Score,
        offset: int | None,
        precision: str,
        *,
        static: bool = False,
        positives: bool = False,
        soft: bool = False,
    ) -> None:
        self.score, self.floor = score, floor
        self.static, self.positives, self.soft = static, positives, soft
        chosen = cut(x.shape[1], precision, score.scale, mixed=ids is None)
        self.cut = chosen.fitted(x.device)
        self.rows, self.columns, self.centre = sides(x, ids, y, y_ids, offset, self.cut)

    def states(
        self, some: Side, sums: Tensor | None = None, gradient: Tensor | None = None
    ) -> Tensor:
        """Return the states of one side, for the tiles."""
        n, scale = len(some), self.score.scale
        states = some.x.new_zeros(6, len(some.start))
        added, floor, limit, factor, shifted, product = states
        added[:n] = some.x @ self.centre + self.centre.square().sum() / 2
        added[n:] = _NOTHING
        shift = scale if self.static else 0
        shifted.copy_((scale * added - shift / 2) * _LOG2E)
        if self.floor is not None and some is self.rows:
            floor.copy_(some.whole(self.floor) * (scale * _LOG2E))
        if sums is not None:
            sums = some.whole(torch.where(sums > -torch.inf, sums, torch.inf), torch.inf)
            limit.copy_(sums * _LOG2E)
        if sums is not None and gradient is not None:
            factor.copy_(some.whole(gradient))
            product.copy_(factor * (shift - sums).exp())
        return states

    def gradients(
        self, of_rows: Tensor, of_columns: Tensor, both: bool, y_too: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient in x, in y, and the sums of the rows' own shares where soft.

        Args:
            of_rows: the states of the rows,
            of_columns: and of the columns,
            both: which have sums too,
            y_too: and whether their gradient is wanted; it is empty where y is x.
        """
        rows, columns = self.rows, self.columns
        if rows is columns:
            dx, own = self._weigh(rows, rows, of_rows, of_rows, 3)
            return dx, dx.new_empty(0), own
        dx, own = self._weigh(rows, columns, of_rows, of_columns, 3 if both else 1)
        dy = dx.new_empty(0)
        if y_too:
            dy, _ = self._weigh(columns, rows, of_columns, of_rows, 3 if both else 2)
        return dx, dy, own

    def _numbers(self) -> tuple[float, float]:
        return self.score.scale, self.score.relaxation or 0.0

    def _constants(self) -> dict[str, bool]:
        return {"RELAXED": self.score.relaxation is not None, "FLOOR": self.floor is not None}

    def _near_constants(self) -> dict[str, Any]:
        return {
            **near_constants(self.rows.x.shape[1]),
            "HEIGHT": HEIGHT,
            "BREADTH": self.cut.shape.columns,
            "POSITIVES": self.positives,
            "SOFT": self.soft,
            **self._constants(),
        }

    def _cuts(self, rows: Side, columns: Side) -> tuple[int, int]:
        # Tiles of rows, and into how many parts to cut the columns.
        row_tiles = len(rows.start) // HEIGHT
        column_tiles = len(columns.start) // self.cut.shape.columns
        return row_tiles, parts(row_tiles, column_tiles, processors(rows.x.device))

    def sums(self, rows: Side, columns: Side, limit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the sum of each row and the largest f, as the caller knows the rows."""
        row_states, column_states = self.states(rows, limit), self.states(columns)
        near = self._near_sums(rows, columns, row_states, column_states)
        if self.soft:
            return rows.back(near[1]), rows.back(near[0])
        out = near[None]
        if not self.positives:
            out = torch.cat([out, self._far_sums(rows, columns, row_states, column_states)])
        tops, totals = out.unbind(1)
        top = tops.amax(0)
        shift = torch.where(top > -torch.inf, top, 0)
        total = (totals * (tops - shift).exp2()).sum(0)
        return rows.back((shift + total.log2()) / _LOG2E), rows.back(top / _LOG2E)

    def _far_sums(
        self, rows: Side, columns: Side, row_states: Tensor, column_states: Tensor
    ) -> Tensor:
        n, m = len(rows.start), len(columns.start)
        row_tiles, cuts = self._cuts(rows, columns)
        out = row_states.new_empty(cuts, 2, n)
        sums_triton.far[row_tiles, cuts](
            rows.parts,
            columns.parts,
            row_states,
            column_states,
            rows.start,
            rows.end,
            out,
            n,
            m,
            *self._numbers(),
            **self.cut.constants(),
            CUTS=cuts,
            STATIC=self.static,
            **self._constants(),
            **self.cut.shape.options(),
        )
        if self.static:
            out[:, 0] = self.score.scale * _LOG2E
        return out

    def _near_sums(
        self, rows: Side, columns: Side, row_states: Tensor, column_states: Tensor
    ) -> Tensor:
        constants = self._near_constants()
        out = row_states.new_empty(2, len(rows.start))
        sums_triton.near[len(rows.start) // constants["ROWS"],](
            rows.x,
            columns.x,
            row_states,
            column_states,
            rows.start,
            rows.end,
            rows.own,
            out,
            len(rows),
            len(columns),
            len(rows.start),
            *self._numbers(),
            **constants,
            **FUSED,
        )
        return out

    def _weigh(
        self, rows: Side, columns: Side, row_states: Tensor, column_states: Tensor, roles: int
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient in the rows and, soft, the sum of the shares of each."""
        problem = rows, columns, row_states, column_states, roles
        total, sums, own = self._near_weights(*problem)
        if not self.positives:
            far, far_sums = self._far_weights(*problem)
            total += far.sum(0)[: len(rows), : total.shape[1]]
            sums += far_sums.sum(0)
        total.addcmul_(sums[: len(rows), None], self.centre)
        scale = -self.score.scale if self.positives else self.score.scale
        return rows.back(total.mul_(scale)), rows.back(own)

    def _near_weights(
        self, rows: Side, columns: Side, row_states: Tensor, column_states: Tensor, roles: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        constants = self._near_constants()
        total, sums = torch.empty_like(rows.x), row_states.new_empty(2, len(rows.start))
        weights_triton.near[len(rows.start) // constants["ROWS"],](
            rows.x,
            columns.x,
            row_states,
            column_states,
            rows.start,
            rows.end,
            rows.own,
            total,
            sums,
            len(rows),
            len(columns),
            len(rows.start),
            len(columns.start),
            *self._numbers(),
            **constants,
            ROLES=roles,
            **FUSED,
        )
        return total, sums[0], sums[1]

    def _far_weights(
        self, rows: Side, columns: Side, row_states: Tensor, column_states: Tensor, roles: int
    ) -> tuple[Tensor, Tensor]:
        n, m, width = len(rows.start), len(columns.start), self.cut.width
        row_tiles, cuts = self._cuts(rows, columns)
        total, sums = row_states.new_empty(cuts, n, width), row_states.new_empty(cuts, n)
        weights_triton.far[row_tiles, cuts, width // self.cut.out](
            rows.parts,
            columns.parts,
            row_states,
            column_states,
            rows.start,
            rows.end,
            total,
            sums,
            n,
            m,
            *self._numbers(),
            **self.cut.constants(),
            OUT=self.cut.out,
            CUTS=cuts,
            ROLES=roles,
            STATIC=self.static,
            **self._constants(),
            **self.cut.shape.options(),
        )
        return total, sums


class Sweep:
    """The sums over the negatives, and their gradient."""

    def __init__(
        self,
        x: Tensor,
        ids: Tensor | None,
        y: Tensor | None,
        y_ids: Tensor | None,
        floor: Tensor | None,
        scale: float,
        relaxation: float | None,
        both: bool,
        largest: bool,
        precision: str,
    ) -> None:
        static = relaxation is None and scale <= _STATIC and not largest
        score, offset = Score(scale, relaxation), 0 if y is None else None
        self.matrix = Matrix(x, ids, y, y_ids, floor, score, offset, precision, static=static)
        self.both, self.largest = both, largest

    def keep(self) -> None:
        """Hold nothing for the next sweep but what was prepared."""

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of rows, of columns, and the largest f."""
        rows, columns = self.matrix.rows, self.matrix.columns
        sums, largest = self.matrix.sums(rows, columns)
        y_sums = sums.new_empty(0)
        if self.both:
            y_sums = self.matrix.sums(columns, rows)[0]
        return sums, y_sums, largest if self.largest else sums.new_empty(0)

    def backward(
        self, gradient: Tensor, y_gradient: Tensor, sums: Tensor, y_sums: Tensor, y_too: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient in x and, empty where y is x, in y."""
        of_rows = self.matrix.states(self.matrix.rows, sums, gradient)
        if self.both:
            of_columns = self.matrix.states(self.matrix.columns, y_sums, y_gradient)
        else:
            of_columns = self.matrix.states(self.matrix.columns)
        return self.matrix.gradients(of_rows, of_columns, self.both, y_too)[:2]


class Positives:
    """The sums over the positives, and their gradient."""

    def __init__(
        self,
        x: Tensor,
        ids: Tensor,
        y: Tensor | None,
        y_ids: Tensor | None,
        bound: Tensor | None,
        floor: Tensor | None,
        offset: int | None,
        scale: float,
        relaxation: float | None,
        precision: str,
    ) -> None:
        self.bound, score = bound, Score(scale, relaxation)
        self.matrix = Matrix(
            x,
            ids,
            y,
            y_ids,
            floor,
            score,
            offset,
            precision,
            positives=True,
            soft=bound is not None,
        )

    def keep(self) -> None:
        """Hold nothing for the next sweep but what was prepared."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return L where there is a bound, else P and the largest f of each row."""
        sums, largest = self.matrix.sums(self.matrix.rows, self.matrix.columns, self._limit())
        return sums, largest if self.bound is None else largest.new_empty(0)

    def backward(self, gradient: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient in x, in y (empty where y is x), and in the bound."""
        limit = self._limit()
        of_rows = self.matrix.states(self.matrix.rows, result if limit is None else limit, gradient)
        of_columns = self.matrix.states(self.matrix.columns)
        return self.matrix.gradients(of_rows, of_columns, False, True)

    def _limit(self) -> Tensor | None:
        return None if self.bound is None else -self.bound
