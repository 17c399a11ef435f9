# Completion of lab and labkit in fish:  ./lab --print-completion-script fish | source
# For every shell: save the script as ~/.config/fish/completions/lab.fish.

function __labkit_complete
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --current-token --cut-at-cursor)
    while string match --quiet --regex '^\w+=' -- $words[1]
        set --erase words[1] # NAME=VALUE before the command
    end
    set -l call (string replace --regex '^~/' $HOME/ -- $words[1])
    if not command --query $call
        set call @LABKIT@
    end
    set -l flag (string match --regex '^--[\w-]+=' -- $current)
    set -l path (string replace --regex '^--[\w-]+=' '' -- $current)
    for reply in ($call --complete -- lab $words[2..] "$current" 2>/dev/null </dev/null)
        switch $reply
            case ':files'
                printf '%s\n' "$flag"(__fish_complete_path "$path")
            case ':directories'
                printf '%s\n' "$flag"(__fish_complete_directories "$path")
            case '*'
                echo $reply
        end
    end
end

complete --command lab --no-files --arguments '(__labkit_complete)'
complete --command labkit --no-files --arguments '(__labkit_complete)'
