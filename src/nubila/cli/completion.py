"""`nubila completion`: scripts for the shells. Each asks `nubila __complete` for every word (see `complete`)."""

from __future__ import annotations

from typing import Literal

from nubila.cli import exits
from nubila.cli.options import noun

app = noun("completion", "Completion scripts for the shells.")
app.help_epilogue = """Examples:
  nubila completion bash > ~/.local/share/bash-completion/completions/nubila
  nubila completion zsh > ~/.zfunc/_nubila
  nubila completion fish > ~/.config/fish/completions/nubila.fish"""

BASH = """\
_nubila() {
    local word current=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS= read -r word; do
        if [[ $word == $'\\x1ffiles' ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        else
            COMPREPLY+=("$word")
        fi
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _nubila nubila
"""
ZSH = """\
#compdef nubila
_nubila() {
    local word
    local -a found
    for word in "${(@f)$($words[1] __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $word == $'\\x1ffiles' ]]; then
            _files
            return
        fi
        [[ -n $word ]] && found+=("$word")
    done
    compadd -- "${found[@]}"
}
if [[ $funcstack[1] == _nubila ]]; then
    _nubila "$@"
else
    compdef _nubila nubila
fi
"""
FISH = """\
function __nubila_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for word in ($words[1] __complete $words[2..] "$current" 2>/dev/null)
        if test "$word" = \\x1ffiles
            __fish_complete_path "$current"
        else
            echo $word
        end
    end
end
complete -c nubila -f -a '(__nubila_complete)'
"""
SCRIPTS: dict[str, str] = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@app.default
def script(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the completion script of a shell."""
    print(SCRIPTS[shell], end="")
    return exits.OK
