"""`nubila completion`: scripts for the shells, with live names at run time (see `complete`)."""

from __future__ import annotations

from typing import Literal

from nubila.cli import exits
from nubila.cli.options import noun

app = noun("completion", "Completion scripts for the shells.")
app.help_epilogue = """Examples:
  nubila completion bash > ~/.local/share/bash-completion/completions/nubila
  nubila completion zsh > ~/.zfunc/_nubila
  nubila completion fish > ~/.config/fish/completions/nubila.fish"""


@app.default
def script(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell."""
    from nubila.cli.main import root

    print(root().generate_completion(prog_name="nubila", shell=shell))
    return exits.OK
