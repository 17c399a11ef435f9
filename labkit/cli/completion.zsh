#compdef lab labkit
# Completion of lab and labkit in zsh:  source <(./lab --print-completion-script zsh)
# For every shell: put that line into ~/.zshrc with the whole path of lab, or save the script as _lab in a directory of $fpath.

_labkit() {
    local program=${(Q)words[1]} reply value
    local -a call values
    [[ $program == '~/'* ]] && program=$HOME/${program#'~/'}
    if whence -p -- $program >/dev/null; then
        call=($program)
    else
        call=(@LABKIT@)
    fi
    for reply in ${(f)"$($call --complete -- lab "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null </dev/null)"}; do
        case $reply in
            :files | :directories)
                [[ $PREFIX == --*=* ]] && compset -P '*='
                if [[ $reply == :files ]]; then _files; else _files -/; fi
                ;;
            *)
                value=${reply%%$'\t'*}
                if [[ $value == $reply ]]; then
                    values+=(${value//:/\\:})
                else
                    values+=("${value//:/\\:}:${reply#*$'\t'}")
                fi
                ;;
        esac
    done
    (( $#values )) && _describe -t values value values
}

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
if [[ $funcstack[1] == (_lab|_labkit) ]]; then # autoloaded, to complete at once
    _labkit "$@"
else
    compdef _labkit lab labkit
fi
