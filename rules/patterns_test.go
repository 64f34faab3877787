package rules_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/napitune/napitune/detect/knob"
)

// reachable says why no address of any setting ends in a suffix, "" if some does: a
// remedy that is forbidden by a name that nothing has forbids nothing.
func reachable(suffix string) string {
	parts := strings.Split(suffix, "/")
	name, above := parts[len(parts)-1], parts[:len(parts)-1]
	found := false
	for _, k := range knob.All() {
		whole := k.Name == name
		if !whole && (len(above) > 0 || !strings.HasSuffix(k.Name, name)) {
			continue
		}
		found = true
		if fits(k, above) {
			return ""
		}
	}
	if !found {
		return fmt.Sprintf("no setting is called %q", name)
	}
	return fmt.Sprintf("no address of %s ends in %q", name, suffix)
}

// queueName is how an address names a queue.
var queueName = regexp.MustCompile(`^(rx|tx)-[0-9]+$`)

// fits reports whether what stands before a setting's name is part of an address
// of it: "rx-3" or "eth0/rx-3" for one of a queue, "eth0" for one of a device.
func fits(k *knob.Kind, above []string) bool {
	if slices.Contains(above, "") {
		return false
	}
	sides := map[knob.Scope][]string{knob.ScopeRx: {"rx-"}, knob.ScopeTx: {"tx-"}, knob.ScopeQueue: {"rx-", "tx-"}}[k.Scope]
	switch {
	case len(above) == 0:
		return true
	case k.Scope == knob.ScopeDevice:
		return len(above) == 1 && !queueName.MatchString(above[0])
	default:
		last := above[len(above)-1]
		return len(above) <= 2 && queueName.MatchString(last) && slices.Contains(sides, last[:3])
	}
}

// remedy is the suffix that a wrong remedy of a scenario stands for, "" for a value.
func remedy(wrong string) string {
	if strings.HasPrefix(wrong, "value ") {
		return ""
	}
	return strings.TrimPrefix(strings.TrimSuffix(wrong, "$"), "changed ")
}

// TestPatterns: what scenarios and captured hosts ask for and forbid is something
// that could be asked for.
func TestPatterns(t *testing.T) {
	hold := func(where, suffix string) {
		if suffix == "" {
			return
		}
		if why := reachable(suffix); why != "" {
			t.Errorf("%s: %s", where, why)
		}
	}
	for _, sc := range allScenarios() {
		for _, want := range sc.wants {
			hold(sc.name, want)
		}
		for _, wrong := range sc.wrong {
			hold(sc.name, remedy(wrong))
		}
	}
	for name, e := range expectations {
		for _, kind := range slices.Concat(e.wants, e.forbid, always) {
			hold(name, kind)
		}
	}
	for suffix, works := range map[string]bool{
		budgetKnob: true, "/" + budgetKnob: false, "eth0/" + budgetKnob: false, "rps_sock_flow_entries": true, "net.core.nosuch": false,
		"ring.rx": true, "/ring.rx": false, "eth0/ring.rx": true, "rx-0/ring.rx": false, "eth0/rx-0/ring.rx": false, "adaptive-rx": true, "gro": true,
		"irq.affinity": true, "rx-3/irq.affinity": true, "eth0/rx-3/irq.affinity": true, "eth0/irq.affinity": false, "tx-0/rps.cpus": false, "tx-0/xps.cpus": true, "a/b/rx-3/irq.affinity": false, "affinity ": false,
	} {
		if why := reachable(suffix); (why == "") != works {
			t.Errorf("reachable(%q): %q", suffix, why)
		}
	}
}
