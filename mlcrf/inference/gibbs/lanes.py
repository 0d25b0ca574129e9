# mypy: allow-untyped-calls
# numba and llvmlite publish no types of their functions
"""Vectors of 32-bit numbers for numba kernels.

Numba leaves vectorisation of loops to LLVM, which often finds none. Here vectors are explicit: a
value of type `Lanes` holds `width` numbers, `+`, `*`, `^` and so on work on all of them, and LLVM
compiles each to as many instructions as the machine's registers need. A scalar operand is repeated
for each lane. Indices are not checked: one out of range corrupts memory.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

_FLOAT, _WORD = ir.FloatType(), ir.IntType(32)
# functions decorated so define how a call is typed and lowered, and take other arguments
_operation: Callable[[Callable[..., Any]], Any] = intrinsic
_typed_by_value: Callable[[Callable[..., Any]], Any] = intrinsic(prefer_literal=True)


class Lanes(types.Type):
    """The numba type of `width` numbers, all float32 or all uint32."""

    def __init__(self, width: int, floating: bool) -> None:
        self.width, self.floating = width, floating
        super().__init__(name=f"{'float' if floating else 'uint'}32x{width}")

    @property
    def scalar(self) -> Any:
        """The type of one of the numbers."""
        return types.float32 if self.floating else types.uint32

    @property
    def vector(self) -> Any:
        """The type in LLVM."""
        return ir.VectorType(_FLOAT if self.floating else _WORD, self.width)


class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.vector)


register_model(Lanes)(_LanesModel)


def _repeat(builder: Any, scalar: Any, lanes: Lanes) -> Any:
    nothing = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(_WORD, 0))
    zeros = ir.Constant(ir.VectorType(_WORD, lanes.width), [0] * lanes.width)
    return builder.shuffle_vector(first, nothing, zeros)


def _lanes_among(arguments: tuple[Any, ...]) -> Lanes | None:
    """Return the one type of lanes among the arguments; None if there is none, or several."""
    found = {one for one in arguments if isinstance(one, Lanes)}
    return found.pop() if len(found) == 1 else None


def _lower(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return code for an operation whose result is lanes like its arguments, scalars repeated."""

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        lanes = call.return_type
        vectors = [
            value
            if isinstance(kind, Lanes)
            else _repeat(builder, context.cast(builder, value, kind, lanes.scalar), lanes)
            for value, kind in zip(values, call.args, strict=True)
        ]
        return build(builder, lanes, *vectors)

    return lower


def _define(symbol: Any, floating: str | None, integer: str | None) -> None:
    """Define an operator on lanes by the names of LLVM's instructions; None for no instruction."""

    def name(lanes: Lanes) -> str | None:
        return floating if lanes.floating else integer

    class _Template(AbstractTemplate):
        def generic(self, arguments: tuple[Any, ...], keywords: Any) -> Any:
            lanes = _lanes_among(arguments)
            return signature(lanes, *arguments) if lanes and name(lanes) else None

    def build(builder: Any, lanes: Lanes, left: Any, right: Any) -> Any:
        return getattr(builder, str(name(lanes)))(left, right)

    infer_global(symbol)(_Template)
    for kinds in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(symbol, *kinds)(_lower(build))


_define(operator.add, "fadd", "add")
_define(operator.sub, "fsub", "sub")
_define(operator.mul, "fmul", "mul")
_define(operator.truediv, "fdiv", None)
_define(operator.xor, None, "xor")
_define(operator.or_, None, "or_")
_define(operator.lshift, None, "shl")
_define(operator.rshift, None, "lshr")


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@_typed_by_value
def fill(typing: Any, scalar: Any, width: Any) -> Any:
    """Repeat one number `width` times."""
    lanes = Lanes(width.literal_value, isinstance(scalar, types.Float))

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        cast = context.cast(builder, values[0], call.args[0], lanes.scalar)
        return _repeat(builder, cast, lanes)

    return lanes(scalar, width), lower


@_typed_by_value
def load(typing: Any, array: Any, index: Any, width: Any) -> Any:
    """Load `width` numbers of an array, taken as flat, from an index on."""
    lanes = Lanes(width.literal_value, isinstance(array.dtype, types.Float))

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        place = _address(context, builder, call.args[0], values[0], values[1])
        return builder.load(builder.bitcast(place, lanes.vector.as_pointer()), align=4)

    return lanes(array, types.intp, width), lower


@_operation
def store(typing: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write lanes to an array, taken as flat, from an index on."""

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        place = _address(context, builder, call.args[0], values[0], values[1])
        builder.store(values[2], builder.bitcast(place, lanes.vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), lower


@_operation
def item(typing: Any, array: Any, index: Any) -> Any:
    """Return one entry of an array, taken as flat, without checking the sign of the index."""

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        return builder.load(_address(context, builder, call.args[0], values[0], values[1]))

    return array.dtype(array, types.intp), lower


@_operation
def multiply_add(typing: Any, left: Any, right: Any, more: Any) -> Any:
    """Return left * right + more, rounded once where the machine can."""

    def build(builder: Any, lanes: Lanes, *vectors: Any) -> Any:
        kind = ir.FunctionType(lanes.vector, [lanes.vector] * 3)
        name = f"llvm.fmuladd.v{lanes.width}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), vectors)

    lanes = _lanes_among((left, right, more))
    assert lanes is not None
    return lanes(left, right, more), _lower(build)


@_operation
def clip(typing: Any, lanes: Any, low: Any, high: Any) -> Any:
    """Clip numbers to an interval."""

    def build(builder: Any, lanes: Lanes, x: Any, low: Any, high: Any) -> Any:
        x = builder.select(builder.fcmp_ordered("<", x, high), x, high)
        return builder.select(builder.fcmp_ordered("<", low, x), x, low)

    return lanes(lanes, low, high), _lower(build)


@_operation
def one_where_at_most(typing: Any, lanes: Any, limit: Any) -> Any:
    """Return 1.0 where a number is at most the limit, else 0.0."""

    def build(builder: Any, lanes: Lanes, left: Any, right: Any) -> Any:
        one, zero = (ir.Constant(lanes.vector, [value] * lanes.width) for value in (1.0, 0.0))
        return builder.select(builder.fcmp_ordered("<=", left, right), one, zero)

    return lanes(lanes, limit), _lower(build)


def _converted(lanes: Lanes, floating: bool, instruction: str) -> Any:
    result = Lanes(lanes.width, floating)

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        return getattr(builder, instruction)(values[0], result.vector)

    return result(lanes), lower


@_operation
def to_float(typing: Any, lanes: Any) -> Any:
    """Convert words below 2^31 to float32, rounded."""
    return _converted(lanes, True, "sitofp")


@_operation
def bits_of(typing: Any, lanes: Any) -> Any:
    """Reinterpret the bits of float32 as words."""
    return _converted(lanes, False, "bitcast")


@_operation
def from_bits(typing: Any, lanes: Any) -> Any:
    """Reinterpret the bits of words as float32."""
    return _converted(lanes, True, "bitcast")


@_operation
def any_bit(typing: Any, lanes: Any) -> Any:
    """Return whether a bit is set in any of the words."""

    def lower(context: Any, builder: Any, call: Any, values: Any) -> Any:
        kind = ir.FunctionType(_WORD, [lanes.vector])
        name = f"llvm.vector.reduce.or.v{lanes.width}i32"
        joined = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.icmp_unsigned("!=", builder.call(joined, values), ir.Constant(_WORD, 0))

    return types.boolean(lanes), lower
