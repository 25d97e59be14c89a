"""Lets vLLM's CPU build run the model runner that a GPU has ("V2"), by Triton's interpreter.

vLLM takes it where Triton is; on a CPU it asks for a backend of Triton's that no package has. The
interpreter (TRITON_INTERPRET=1) needs none: kernels become Python. CONTRIBUTING.md has the command.
"""

from types import SimpleNamespace

from triton.backends import backends

backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False))
