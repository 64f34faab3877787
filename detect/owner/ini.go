package owner

import "strings"

// section is one section of a file in the form that systemd, NetworkManager and
// tuned share: [name], then KEY=VALUE.
type section struct {
	name  string
	pairs []pair
}

type pair struct{ key, value string }

// parseINI reads sections in their order. Comments and what is no pair are left
// out, and so is what comes before the first section.
func parseINI(text string) []section {
	var out []section
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			if name, ok = strings.CutSuffix(name, "]"); ok {
				out = append(out, section{name: name})
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || len(out) == 0 || strings.TrimSpace(key) == "" {
			continue
		}
		last := &out[len(out)-1]
		last.pairs = append(last.pairs, pair{strings.TrimSpace(key), strings.TrimSpace(value)})
	}
	return out
}

// get is the last value of a key, "" if there is none.
func (s section) get(key string) string {
	value := ""
	for _, p := range s.pairs {
		if p.key == key {
			value = p.value
		}
	}
	return value
}
