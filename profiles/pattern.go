package profiles

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/strict"
)

// Pattern names settings: the address of one (knob.Ref) or a wildcard form of it.
//
//	ring.*                 a kind, on every device and queue
//	eth*/ring.rx           a kind on some devices, on all of their queues
//	eth0/rx-*/rps.cpus     a kind on some queues
//
// An asterisk stands for any text and a question mark for one character, within
// one part.
type Pattern string

// ParsePattern checks that a pattern can match a setting at all.
func ParsePattern(text string) (Pattern, error) {
	p := Pattern(text)
	device, queue, kind, err := p.parts()
	if err != nil {
		return "", err
	}
	var names []string
	known := false
	for _, k := range knob.All() {
		names = append(names, k.Name)
		if !matches(kind, k.Name) {
			continue
		}
		known = true
		if fits(k.Scope, device, queue) {
			return p, nil
		}
	}
	if !known {
		return "", fmt.Errorf("there is no setting %q%s", strict.Clip(kind), strict.Choices(kind, names))
	}
	return "", fmt.Errorf("no setting has an address of the form %q: %s", strict.Clip(text), whose(kind))
}

// whose says what the settings of a kind belong to.
func whose(kind string) string {
	if k, ok := knob.Lookup(kind); ok {
		return kind + " is a setting of " + k.Scope.String()
	}
	return "the forms are NAME, DEVICE/NAME and DEVICE/QUEUE/NAME"
}

func (p Pattern) parts() (device, queue, kind string, err error) {
	parts := strings.Split(string(p), "/")
	for _, part := range parts {
		if part == "" {
			return "", "", "", fmt.Errorf("setting %q has an empty part", strict.Clip(string(p)))
		}
	}
	switch len(parts) {
	case 1:
		return "", "", parts[0], nil
	case 2:
		return parts[0], "", parts[1], nil
	case 3:
		if !strings.HasPrefix(parts[1], "rx-") && !strings.HasPrefix(parts[1], "tx-") && parts[1] != "*" {
			return "", "", "", fmt.Errorf("setting %q: %q is not a queue (rx-N, tx-N, rx-*, tx-* or *)", strict.Clip(string(p)), strict.Clip(parts[1]))
		}
		return parts[0], parts[1], parts[2], nil
	default:
		return "", "", "", fmt.Errorf("setting %q has more parts than DEVICE/QUEUE/NAME", strict.Clip(string(p)))
	}
}

// fits reports whether settings of a scope can have a device, and a queue of
// the named side.
func fits(scope knob.Scope, device, queue string) bool {
	switch {
	case device == "":
		return true
	case scope == knob.ScopeHost:
		return false
	case queue == "":
		return true
	case strings.HasPrefix(queue, "tx-"):
		return scope == knob.ScopeTx || scope == knob.ScopeQueue
	case strings.HasPrefix(queue, "rx-"):
		return scope == knob.ScopeRx || scope == knob.ScopeQueue
	default:
		return scope != knob.ScopeDevice
	}
}

// Match reports whether the pattern names a setting.
func (p Pattern) Match(ref knob.Ref) bool {
	device, queue, kind, err := p.parts()
	if err != nil || !matches(kind, ref.Kind) {
		return false
	}
	if device != "" && (ref.Dev == "" || !matches(device, ref.Dev)) {
		return false
	}
	if queue == "" {
		return true
	}
	side := "rx-"
	if ref.Tx {
		side = "tx-"
	}
	return ref.Queue >= 0 && matches(queue, side+strconv.Itoa(ref.Queue))
}

// literal reports whether the pattern is a kind or an address without wildcards.
func (p Pattern) literal() bool { return !strings.ContainsAny(string(p), "*?") }

// matches compares text with a wildcard form. After a mismatch it suffices to
// let the last asterisk take one character more, so no form takes longer than
// the product of both lengths.
func matches(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p, t = p+1, t+1
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
