# Completion of lab and labkit in bash:  source <(./lab --print-completion-script bash)
# For every shell: put that line into ~/.bashrc with the whole path of lab.

_labkit() {
    local program=${COMP_WORDS[0]} line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]}
    local -a words replies=()
    if [[ -n $line ]]; then
        # Bash splits words at = and : and @; the line itself has them whole. `read` undoes backslashes.
        # shellcheck disable=SC2162
        read -d '' -a words <<<"${line#*"$program"}"
        [[ $line == *[[:space:]] ]] && words+=('')
    else
        words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    fi
    ((${#words[@]})) || words=('')
    program=${program//[\\\"\']/}
    [[ $program == \~/* ]] && program=$HOME/${program:2}
    if type -P -- "$program" >/dev/null; then
        set -- "$program"
    else
        set -- @LABKIT@
    fi
    local word=${words[${#words[@]} - 1]-} reply
    while IFS= read -r reply; do
        replies+=("${reply%%$'\t'*}")
    done < <("$@" --complete -- lab "${words[@]}" 2>/dev/null </dev/null)

    # What is given back takes the place of the piece after the last of those characters.
    [[ $current == [=:@] ]] && current=
    local before=${word%"$current"}
    COMPREPLY=()
    for reply in "${replies[@]}"; do
        case $reply in
            :files | :directories)
                compopt -o filenames 2>/dev/null
                local kind=-d
                [[ $reply == :files ]] && kind=-f
                while IFS= read -r reply; do
                    COMPREPLY+=("$reply")
                done < <(compgen $kind -- "$current")
                ;;
            *) COMPREPLY+=("${reply#"$before"}") ;;
        esac
    done
}
complete -F _labkit lab labkit
