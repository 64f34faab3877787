package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/napitune/napitune/rules/plan"
)

// Shell writes the plan as a POSIX shell script with the reasons as comments.
// The script stops at the first error and, before it writes anything, checks
// that it runs on the host it was made for: on the same kernel with the same
// devices, and on the same boot where the advice was live and a command has the
// number of an interrupt, because these change at boot.
func Shell(w io.Writer, a Advice) error {
	p := &page{w: w}
	p.line("#!/bin/sh")
	p.line("# Plan of napitune, profile " + comment(a.Plan.Profile) + ", for Linux " + comment(a.Host.Release) + ".")
	p.line("# Each command is preceded by: setting: before → after — reason")
	p.line("# " + totals(a.Plan))
	p.line("set -eu")
	p.blank()
	p.shellGuards(a)
	for _, c := range a.Plan.Changes {
		p.blank()
		p.line("# " + comment(fmt.Sprintf("%s: %s → %s — %s", c.Ref, beforeOf(c), c.After, reasonOf(c.Why, c.Findings))))
		if c.Disruption != "" && c.Disruption != "none" {
			p.line("# disrupts: " + comment(c.Disruption))
		}
		if c.Shell == "" {
			p.line("# There is no command for this setting; it is left as it is.")
			continue
		}
		p.line(c.Shell)
	}
	p.leftOver(a.Plan)
	return p.err
}

// byNumber reports whether the command of a change names an interrupt by its number.
func byNumber(c plan.Change) bool { return strings.Contains(c.Shell, "/proc/irq/") }

// comment makes text safe behind "#": a line break would end the comment and
// run the rest as a command.
func comment(text string) string { return clean(text) }

func (p *page) shellGuards(a Advice) {
	p.line("refuse() { echo \"napitune plan: $1; nothing was changed\" >&2; exit 1; }")
	p.line("[ \"$(id -u)\" = 0 ] || refuse 'root is needed'")
	switch {
	case a.Live && a.BootID != "" && slices.ContainsFunc(a.Plan.Changes, byNumber):
		p.line("[ \"$(cat /proc/sys/kernel/random/boot_id)\" = " + quote(a.BootID) + " ] ||")
		p.line("\trefuse 'this is another host, or it was rebooted since'")
	case a.Host.Release != "":
		p.line("[ \"$(uname -r)\" = " + quote(a.Host.Release) + " ] ||")
		p.line("\trefuse 'this host has another kernel than the one the plan was made for'")
	}
	var devices []string
	for _, c := range a.Plan.Changes {
		if c.Ref.Dev != "" && !slices.Contains(devices, c.Ref.Dev) {
			devices = append(devices, c.Ref.Dev)
		}
	}
	for _, dev := range devices {
		p.line("[ -d " + quote("/sys/class/net/"+dev) + " ] || refuse " + quote("there is no device "+dev))
	}
}

// quote makes one word of text for a POSIX shell. Line breaks stay inside the
// quotes; NUL cannot be expressed and is dropped.
func quote(text string) string {
	text = strings.ReplaceAll(text, "\x00", "")
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
