package report

import (
	"io"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// Sysctl writes the host-wide settings of the plan as a sysctl.d file, with the
// reasons as comments, and lists as comments what such a file cannot hold
// (sysctl.d(5)).
func Sysctl(w io.Writer, a Advice) error {
	p := &page{w: w}
	p.planComment(a, "the host-wide settings")
	p.line("# As /etc/sysctl.d/90-napitune.conf it is read at every boot, and at once by: sysctl --system")
	var rest []unexpressed
	for _, c := range a.Plan.Changes {
		line, why := sysctlLine(c)
		if why != "" {
			rest = append(rest, unexpressed{c, why})
			continue
		}
		p.blank()
		p.line(changeComment(c))
		p.line(line)
	}
	if len(rest) == len(a.Plan.Changes) {
		p.line("# There is no change to put into it.")
	}
	p.unexpressed("Not in this file:", rest)
	p.leftOver(a.Plan)
	return p.err
}

// sysctlLine is the assignment for a change, or why there is none.
func sysctlLine(c plan.Change) (line, why string) {
	kind, ok := knob.Lookup(c.Ref.Kind)
	if !ok || kind.Scope != knob.ScopeHost || !strings.HasPrefix(kind.Name, "net.") {
		return "", "a setting of a device and no sysctl"
	}
	value, err := kind.Codec.Canonical(c.After)
	if err != nil {
		return "", "the value is not valid"
	}
	if kind.Codec.Name == "cpus" {
		cpus, err := cpuset.ParseList(value)
		if err != nil {
			return "", "the value is not valid"
		}
		value = cpus.Mask()
	}
	return kind.Name + " = " + value, ""
}
