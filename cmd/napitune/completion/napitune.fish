# fish completion for napitune
function __napitune_complete
    set -l words (commandline -opc)
    napitune __complete $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c napitune -f -a '(__napitune_complete)'
complete -c napitune -l host -r -F
complete -c napitune -s o -r -F
