package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Origin is the machine that a plan was made on, as far as the addresses in
// the plan depend on it. It says in words what the fingerprint only compares.
type Origin struct {
	BootID  string `json:"boot_id"`
	Release string `json:"release"` // uname -r
	// NetNS is the network namespace, in which device names mean something; ""
	// if unknown. See host.Ident.
	NetNS   string         `json:"netns,omitempty"`
	Devices []OriginDevice `json:"devices"`
}

// OriginDevice is one network device of an Origin.
type OriginDevice struct {
	Name   string `json:"name"`
	Driver string `json:"driver,omitempty"`
	Bus    string `json:"bus,omitempty"` // PCI address, "" if the device has none
	// Index is the interface index, which survives a renaming but not a
	// re-creation of the device. 0 if unknown; not part of the fingerprint.
	Index  int `json:"index,omitempty"`
	Queues int `json:"queues"`
}

// Fingerprint tells hosts, boots and device changes apart: a plan is good only
// where it was made. It covers what the addresses in a plan depend on (boot,
// kernel, network namespace, devices with driver, bus and queues) and nothing that moves by itself.
func (o Origin) Fingerprint() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q %q\n", o.BootID, o.Release)
	if o.NetNS != "" {
		_, _ = fmt.Fprintf(h, "%q\n", o.NetNS)
	}
	for _, d := range o.Devices {
		_, _ = fmt.Fprintf(h, "%q %q %q %d\n", d.Name, d.Driver, d.Bus, d.Queues)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Differences names in words what sets another machine, or a later state of the
// same one, apart from this one. Equal fingerprints have none.
func (o Origin) Differences(now Origin) []string {
	var out []string
	say := func(what, was, is string) {
		if was != is {
			out = append(out, fmt.Sprintf("%s is %q, the plan was made with %q", what, is, was))
		}
	}
	say("the boot", o.BootID, now.BootID)
	say("the kernel", o.Release, now.Release)
	say("the network namespace", o.NetNS, now.NetNS)
	for _, was := range o.Devices {
		at := slices.IndexFunc(now.Devices, func(d OriginDevice) bool { return d.Name == was.Name })
		if at < 0 {
			out = append(out, fmt.Sprintf("device %s of the plan is not there", was.Name))
			continue
		}
		is := now.Devices[at]
		say("the driver of "+was.Name, was.Driver, is.Driver)
		say("the bus address of "+was.Name, was.Bus, is.Bus)
		if was.Queues != is.Queues {
			out = append(out, fmt.Sprintf("%s has %d queues, the plan was made with %d", was.Name, is.Queues, was.Queues))
		}
	}
	for _, is := range now.Devices {
		if !slices.ContainsFunc(o.Devices, func(d OriginDevice) bool { return d.Name == is.Name }) {
			out = append(out, fmt.Sprintf("device %s was not there when the plan was made", is.Name))
		}
	}
	return out
}
