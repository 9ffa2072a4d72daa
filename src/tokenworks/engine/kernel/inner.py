# mypy: allow-untyped-defs, allow-untyped-calls, allow-subclassing-any
"""How numba compiles the functions that only other compiled functions call.

By default numba optimises each function, with all functions inside it, and makes machine code of it. Nobody runs the
machine code of an inner function, and its caller optimises it again. Here an inner function stays as numba wrote it,
until the entry point that holds it is optimised as a whole. That halves the time of the first start.
"""

from __future__ import annotations

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

# What `InnerCode` replaces are internals of numba. A numba without them compiles in its own way, only more slowly.
_REPLACED = ("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals", "codegen")
KNOWN = all(hasattr(JITCodeLibrary, name) for name in _REPLACED)


class _NoEnvironment:
    """Stands for the code generator where numba stores Python objects for machine code; here is no machine code."""

    def set_env(self, name, environment):
        """Nothing to store."""


class InnerCode(JITCodeLibrary):
    """Code of an inner function, to be linked into its callers and never run by itself."""

    codegen = _NoEnvironment()

    def _optimize_final_module(self):
        """The entry point does it."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


class ApartCode(InnerCode):
    """Code that LLVM must not copy into its callers."""

    def add_ir_module(self, ir_module):
        """Add the code of the function."""
        for function in ir_module.functions:
            if not function.is_declaration:
                function.attributes.add("noinline")
        super().add_ir_module(ir_module)


class InnerCompiler(CompilerBase):
    """Numba's own compiler, but for where the code goes."""

    code = InnerCode

    def define_pipelines(self):
        """Steps of the compiler: numba's own."""
        if KNOWN:
            state = self.state
            state.library = self.code(state.targetctx.codegen(), state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


class ApartCompiler(InnerCompiler):
    """The compiler of functions that stay apart."""

    code = ApartCode
