package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

func ownerFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "owner", Usage: "what to do about programs that write the same settings, `[NAME=]WORD`: " +
		"leave (leave the changes out), ban (tell the program, which irqbalance alone can be; rollback tells it back), take (change them all the same); " +
		"may be repeated for programs by name. Without it, what a program would soon undo is refused"}
}

// parseOwners reads --owner.
func parseOwners(c *cli.Context) (map[string]apply.Choice, error) {
	out := map[string]apply.Choice{}
	for _, text := range c.StringSlice("owner") {
		name, word, named := strings.Cut(text, "=")
		if !named {
			name, word = "", text
		}
		choice := apply.Choice(word)
		if choice != apply.Leave && choice != apply.Ban && choice != apply.Take || named && name == "" {
			return nil, fmt.Errorf("--owner %q: it is leave, ban or take, or one of them for a program by name (irqbalance=ban)", text)
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("--owner %q: there is another one for the same programs", text)
		}
		out[name] = choice
	}
	return out, nil
}

// findOwners looks for those who write settings of the machine now.
func findOwners(m *machine) ([]owner.Owner, error) {
	h := m.last()
	if h.Processes == nil {
		return owner.Find(h, nil), nil
	}
	processes, err := h.Processes()
	if err != nil {
		return nil, err
	}
	return owner.Find(h, processes), nil
}

// nameOwners notes in a plan who else writes its settings.
func nameOwners(p *plan.Plan, m *machine, s *detect.Snapshot) {
	all := owner.Find(m.last(), s.Processes)
	p.NameOwners(func(change plan.Change) []plan.Owner {
		var out []plan.Owner
		for _, o := range all {
			if c, ok := o.Fights(change.Ref, change.After); ok {
				out = append(out, plan.Owner{
					Name: o.Name, Undoes: o.Habit == owner.Always, When: o.When, Value: c.Value, Source: c.Source,
					Tellable: o.Exceptions != "", Remedy: o.Remedy,
				})
			}
		}
		return out
	})
}

// lastingBan is how irqbalance leaves the interrupts of the changes alone over
// boots, which give them new numbers; "" where nothing was told to it.
func lastingBan(r apply.Result, origin *plan.Origin) string {
	told := slices.ContainsFunc(r.Changes, func(o apply.Outcome) bool { return o.Ref.Kind == "irqbalance.banned" })
	if !told || r.State != apply.Confirmed && r.State != apply.Unconfirmed {
		return ""
	}
	var buses []string
	for _, o := range r.Changes {
		if bus := busOf(origin, o.Ref.Dev); o.Ref.Kind == "irq.affinity" && bus != "" && !slices.Contains(buses, bus) {
			buses = append(buses, bus)
		}
	}
	text := "irqbalance leaves these interrupts alone until it restarts"
	if len(buses) > 0 {
		text += ". " + banForGood(buses)
	}
	return text
}

// banForGood is how irqbalance leaves the interrupts of devices alone over
// restarts.
func banForGood(buses []string) string {
	return "For good: IRQBALANCE_ARGS=\"--policyscript=/etc/irqbalance.policy\"\n" +
		"in /etc/default/irqbalance (Debian) or /etc/sysconfig/irqbalance (Red Hat), with this executable /etc/irqbalance.policy:\n\n" +
		"  #!/bin/sh\n  case \"$1\" in */" + strings.Join(buses, "|*/") + ") echo ban=true;; esac\n"
}

// busOf is the PCI address of a device of a plan, "" if it has none.
func busOf(origin *plan.Origin, dev string) string {
	if origin == nil {
		return ""
	}
	at := slices.IndexFunc(origin.Devices, func(d plan.OriginDevice) bool { return d.Name == dev })
	if at < 0 {
		return ""
	}
	return origin.Devices[at].Bus
}
