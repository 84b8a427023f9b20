"""`sgd completion`: a script for a shell, and the completions that the script asks for."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence

from ...contract.constants import DONE
from ...contract.node_library import NodeLibrary
from ..candidates import FILES, candidates
from ..main import parser

BASH = r"""# Completion of sgd in bash: eval "$(sgd completion bash)"
_sgd() {
  local line found=() files=
  local typed=${COMP_LINE:0:COMP_POINT} words
  read -ra words <<< "$typed"
  [[ $typed == *" " ]] && words+=("")
  local last=${words[${#words[@]} - 1]}
  # bash replaces the part of a word behind its last = or : alone.
  local kept=${last%"${last##*[=:]}"}
  while IFS= read -r line; do
    line=${line%%$'\t'*}
    if [[ $line == FILES ]]; then files=1; else found+=("${line#"$kept"}"); fi
  done < <(sgd completion bash -- "${words[@]:1}" 2> /dev/null)
  COMPREPLY=("${found[@]}")
  if [[ -n $files ]]; then
    compopt -o filenames 2> /dev/null
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "${last#"$kept"}")
  fi
  if [[ ${#found[@]} -eq 1 && ${found[0]} == *= ]]; then compopt -o nospace 2> /dev/null; fi
}
complete -F _sgd sgd
"""

ZSH = r"""#compdef sgd
# Completion of sgd in zsh: source <(sgd completion zsh)
_sgd() {
  local line text help files=
  local -a open done
  for line in "${(@f)$(sgd completion zsh -- "${(@)words[2,CURRENT]}" 2> /dev/null)}"; do
    text=${line%%$'\t'*} help=${line#*$'\t'}
    if [[ $text == FILES ]]; then files=1
    elif [[ -z $text ]]; then continue
    elif [[ $text == *= ]]; then open+=("${text//:/\\:}:$help")
    else done+=("${text//:/\\:}:$help"); fi
  done
  (( ${#open} )) && _describe -t values sgd open -S ''
  (( ${#done} )) && _describe -t words sgd done
  if [[ -n $files ]]; then
    [[ $PREFIX == *=* ]] && compset -P '*='
    _files
  fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _sgd "$@"; else compdef _sgd sgd; fi
"""

FISH = r"""# Completion of sgd in fish: sgd completion fish | source
function __sgd_words
  set -l words (commandline -opc)[2..] (commandline -ct)
  for line in (sgd completion fish -- $words 2> /dev/null)
    if test "$line" = FILES
      __fish_complete_path (string replace -r '^.*=' '' -- (commandline -ct))
    else
      echo $line
    end
  end
end
complete -c sgd -f -a '(__sgd_words)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd completion`."""
    to.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    to.add_argument(
        "words",
        nargs=REMAINDER,
        metavar="WORD",
        help="print the completions of the last word of a command line, as the script does",
    )


def command(arguments: Namespace) -> int:
    """`sgd completion`."""
    if not arguments.words:
        print(SCRIPTS[arguments.shell], end="")
        return DONE
    for each in candidates(arguments.words, parser()):
        help = " ".join(each.help.split())
        print(f"{each.text}\t{help}" if help and each.text != FILES else each.text)
    return DONE
