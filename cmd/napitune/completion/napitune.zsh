#compdef napitune
_napitune() {
	local -a candidates
	candidates=("${(@f)$(napitune __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${candidates[1]}" ]]; then
		compadd -a candidates
	else
		_files
	fi
}
if [ "$funcstack[1]" = "_napitune" ]; then
	_napitune "$@"
else
	compdef _napitune napitune
fi
