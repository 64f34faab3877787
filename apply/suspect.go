package apply

import (
	"fmt"
	"strings"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/rules/plan"
)

// witness knows what may have changed a setting since it was written.
type witness struct {
	view   knob.View
	where  devices
	owners []owner.Owner
}

// newWitness looks at the host. What it cannot see it does not suspect.
func newWitness(v knob.View, was, now plan.Origin) witness {
	w := witness{view: v, where: devices{was: was, now: now}}
	if v.Host == nil || v.Host.Processes == nil {
		return w
	}
	if processes, err := v.Host.Processes(); err == nil {
		w.owners = owner.Find(v.Host, processes)
	}
	return w
}

// suspects says in words what may have changed a setting of the journal, which
// is at this address by now, from what was written to what it is, likeliest
// first; none if nothing is known.
func (w witness) suspects(ref, at knob.Ref, wrote, present string) []string {
	kind, ok := knob.Lookup(ref.Kind)
	if !ok {
		return nil
	}
	var out []string
	if text := w.where.remade(ref.Dev); text != "" {
		out = append(out, text)
	}
	if kind.Codec.Name == "cpus" && offline(w.view, wrote, present) {
		out = append(out, "CPUs of the old value are offline")
	}
	for _, o := range w.owners {
		if claim, ok := o.Claim(at); ok {
			out = append(out, fmt.Sprintf("%s sets it %s (%s)", o.Name, o.When, claim.Source))
		}
	}
	return out
}

// offline reports whether the present CPUs are the written ones without those
// that are offline: the kernel takes them out and does not put them back
// (kernel/irq/cpuhotplug.c).
func offline(v knob.View, wrote, present string) bool {
	want, err := cpuset.ParseList(wrote)
	is, presentErr := cpuset.ParseList(present)
	online, onlineErr := cpuset.ParseList(v.OnlineCPUs)
	if err != nil || presentErr != nil || onlineErr != nil || strings.TrimSpace(v.OnlineCPUs) == "" {
		return false
	}
	lost := want.Minus(online)
	return !lost.IsEmpty() && (want.Minus(lost).String() == is.String() || is.String() == online.String())
}
