# Completion of mnemo, mnemosyned, mnemosyne-admin, mnemo-train and mnemo-bench for bash. Commands and flags are read from
# the program's own help when they are first asked for, so that they are those of the program that is installed.

declare -gA _mnemosyne_help_of

# The help of $1, asked for once a shell. Abseil's --help, which ends with 1, has not every flag; its --helpfull has.
_mnemosyne_help() {
  if [[ -z ${_mnemosyne_help_of[$1]-} ]]; then
    _mnemosyne_help_of[$1]=$("$1" --help 2>/dev/null) || _mnemosyne_help_of[$1]=$("$1" --helpfull 2>/dev/null)
  fi
}

_mnemosyne() {
  local program=$1 name=${1##*/} word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flag='' i
  COMPREPLY=()
  _mnemosyne_help "$program"
  local help=${_mnemosyne_help_of[$program]}

  # Bash takes --flag=value apart at the '='.
  if [[ $word == '=' ]]; then
    flag=$before word=''
  elif [[ $before == '=' ]]; then
    flag=${COMP_WORDS[COMP_CWORD-2]}
  fi
  if [[ $flag == --* ]]; then
    # The words that some flags take; else files.
    local values=''
    case $flag in
      --retention) values='keep trim' ;;
      --wait) values='accepted durable memorized' ;;
      --log_format) values='text json' ;;
      --device) values='cpu cuda' ;;
      --weights) values='float32 bfloat16 bfloat16_products' ;;
      --sync_writes | --allow_insecure) values='true false' ;;
    esac
    if [[ -n $values ]]; then
      mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word")
    else
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
    return
  fi

  if [[ $word == -* ]]; then
    local flags
    flags=$(grep -oE -- '(^|[[:space:](])--[a-z][a-z_]*=?' <<<"$help" | grep -oE -- '--[a-z_]+=?' | sort -u)
    # A flag that the help names both ways takes a value. Abseil's help does not show which do.
    [[ $help == *'Flags from '* ]] && flags=${flags//=/}
    flags=$(awk '{name = $0; sub(/=$/, "", name)} !(name in seen) || $0 != name {seen[name] = $0}
      END {for (name in seen) print seen[name]}' <<<"$flags" | sort)
    mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return
  fi

  # The command is the first word that is no flag, nor a flag's value.
  for ((i = 1; i < COMP_CWORD; ++i)); do
    if [[ ${COMP_WORDS[i]} == '=' ]]; then
      ((++i))
    elif [[ ${COMP_WORDS[i]} != -* ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$word")
      return
    fi
  done
  local commands
  commands=$(sed -n -E "s/^  $name ([a-z]+).*/\1/p" <<<"$help")
  # mnemo-bench names its commands in one line: mnemo-bench recall|capacity|... [flags].
  [[ -n $commands ]] || commands=$(sed -n -E "s/^.*$name ([a-z]+(\|[a-z]+)+) .*/\1/p" <<<"$help" | tr '|' ' ')
  mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
}

complete -F _mnemosyne mnemo mnemosyned mnemosyne-admin mnemo-train mnemo-bench
