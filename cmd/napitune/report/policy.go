package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/profiles"
)

// Schemas of the answers of "napitune profile".
const (
	SchemaPolicies = "napitune/policies/v1"
	SchemaPolicy   = "napitune/policy/v1"
)

// Policies is the answer of "napitune profile list".
type Policies struct {
	Schema   string         `json:"schema"`
	Policies []PolicyMember `json:"policies"`
}

// PolicyMember is one policy of a list.
type PolicyMember struct {
	Name        string `json:"name"`
	Extends     string `json:"extends"` // "" = stands alone
	Description string `json:"description"`
}

// NewPolicies lists policies in the order given.
func NewPolicies(list []profiles.Policy) Policies {
	out := Policies{Schema: SchemaPolicies, Policies: []PolicyMember{}}
	for _, p := range list {
		out.Policies = append(out.Policies, PolicyMember{Name: p.Name, Extends: p.Extends, Description: p.Description})
	}
	return out
}

// Text writes one paragraph per policy.
func (l Policies) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	indent := 0
	for _, m := range l.Policies {
		indent = max(indent, columns(m.Name)+2)
	}
	for _, m := range l.Policies {
		p.hang(clean(m.Name), bold, indent, m.Description)
	}
	return p.err
}

// Policy is the answer of "napitune profile show" and "check".
type Policy struct {
	Schema  string `json:"schema"`
	Name    string `json:"name"`
	Extends string `json:"extends"`
	// File is where a site's policy was read from, "" for those that come with
	// the program.
	File        string `json:"file"`
	Description string `json:"description"`
	Latency     bool   `json:"latency"`
	Forwarding  bool   `json:"forwarding"`
	HarmOnly    bool   `json:"harm_only"`
	// MaxDisruption is "none", "packets" or "link"; "link" allows everything.
	MaxDisruption string                  `json:"max_disruption"`
	NetworkCPUs   string                  `json:"network_cpus"` // "" = every housekeeping CPU
	ForbiddenCPUs string                  `json:"forbidden_cpus"`
	Caps          PolicyCaps              `json:"caps"`
	Thresholds    []PolicyThreshold       `json:"thresholds"` // those that differ from the rules' own
	Forbid        []PolicyBan             `json:"forbid"`
	Devices       []PolicyDevice          `json:"devices"`
	Acknowledge   []PolicyAcknowledgement `json:"acknowledge"`
}

// PolicyCaps are upper limits; 0 = none.
type PolicyCaps struct {
	Queues int `json:"queues"`
	RxRing int `json:"rx_ring"`
	TxRing int `json:"tx_ring"`
}

// PolicyThreshold is a threshold with another value than its rule's.
type PolicyThreshold struct {
	Name    string  `json:"name"`
	Value   float64 `json:"value"`
	Default float64 `json:"default"`
	Unit    string  `json:"unit"`
	Why     string  `json:"why"`
}

// PolicyBan is a setting that must not be changed.
type PolicyBan struct {
	Setting string `json:"setting"`
	Why     string `json:"why"`
}

// PolicyDevice is what holds for some devices only.
type PolicyDevice struct {
	Name   string      `json:"name"` // "" = every name
	Driver string      `json:"driver"`
	Caps   PolicyCaps  `json:"caps"`
	Forbid []PolicyBan `json:"forbid"`
	// NetworkCPUs takes the place of the policy's, ForbiddenCPUs adds to them.
	NetworkCPUs   string            `json:"network_cpus"`
	ForbiddenCPUs string            `json:"forbidden_cpus"`
	Thresholds    []PolicyThreshold `json:"thresholds"`
}

// PolicyAcknowledgement is a finding that the site accepts.
type PolicyAcknowledgement struct {
	Finding string `json:"finding"`
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
	Until   string `json:"until"` // last day, YYYY-MM-DD
	Expired bool   `json:"expired"`
}

// Scale is what a threshold is measured in, and the value its rule gives it.
type Scale struct {
	Value float64
	Unit  string
}

// NewPolicy makes the document of a policy. scales are the thresholds of the
// rules by name; now decides which acknowledgements have expired.
func NewPolicy(p profiles.Policy, file string, scales map[string]Scale, now time.Time) Policy {
	out := Policy{
		Schema: SchemaPolicy, Name: p.Name, Extends: p.Extends, File: file, Description: p.Description,
		Latency: p.Latency, Forwarding: p.Forwarding, HarmOnly: p.HarmOnly, MaxDisruption: "link",
		NetworkCPUs: p.NetworkCPUs.String(), ForbiddenCPUs: p.ForbiddenCPUs.String(), Caps: policyCaps(p.Caps),
		Thresholds: []PolicyThreshold{}, Forbid: policyBans(p.Bans), Devices: []PolicyDevice{}, Acknowledge: []PolicyAcknowledgement{},
	}
	if p.MaxDisruption != nil {
		out.MaxDisruption = p.MaxDisruption.String()
	}
	out.Thresholds = policyThresholds(p.Thresholds, p.Reasons, scales)
	for _, o := range p.Overrides {
		out.Devices = append(out.Devices, PolicyDevice{
			Name: o.Name, Driver: o.Driver, Caps: policyCaps(o.Caps), Forbid: policyBans(o.Bans),
			NetworkCPUs: o.NetworkCPUs.String(), ForbiddenCPUs: o.ForbiddenCPUs.String(),
			Thresholds: policyThresholds(o.Thresholds, o.Reasons, scales),
		})
	}
	for _, a := range p.Acknowledgements {
		out.Acknowledge = append(out.Acknowledge, PolicyAcknowledgement{
			Finding: a.Finding, Subject: a.Subject, Reason: a.Reason, Until: a.Until.Format(time.DateOnly), Expired: a.ExpiredOn(now),
		})
	}
	return out
}

func policyThresholds(values map[string]float64, reasons map[string]string, scales map[string]Scale) []PolicyThreshold {
	out := []PolicyThreshold{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		out = append(out, PolicyThreshold{
			Name: name, Value: values[name], Default: scales[name].Value, Unit: scales[name].Unit, Why: reasons[name],
		})
	}
	return out
}

func policyCaps(c profiles.Caps) PolicyCaps {
	return PolicyCaps{Queues: c.Queues, RxRing: c.RxRing, TxRing: c.TxRing}
}

func policyBans(bans []profiles.Ban) []PolicyBan {
	out := []PolicyBan{}
	for _, b := range bans {
		out = append(out, PolicyBan{Setting: string(b.Pattern), Why: b.Why})
	}
	return out
}

// Text writes what the policy decides; what it leaves to the rules is not
// mentioned.
func (d Policy) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	head := clean(d.Name)
	if d.Extends != "" {
		head += " (extends " + clean(d.Extends) + ")"
	}
	if d.File != "" {
		head += " — " + clean(d.File)
	}
	p.line(p.paint(bold, head))
	p.hang("", plain, 2, d.Description)
	for _, s := range d.sections() {
		if len(s.items) == 0 {
			continue
		}
		p.blank()
		p.line(p.paint(bold, s.title))
		for _, item := range s.items {
			p.hang("  -", plain, 4, item)
		}
	}
	return p.err
}

type policySection struct {
	title string
	items []string
}

func (d Policy) sections() []policySection {
	var devices, acknowledged []string
	for _, o := range d.Devices {
		devices = append(devices, o.text())
	}
	for _, a := range d.Acknowledge {
		until := "until " + a.Until
		if a.Expired {
			until = "EXPIRED on " + a.Until
		}
		acknowledged = append(acknowledged, fmt.Sprintf("%s on %s, %s — %s", a.Finding, a.Subject, until, a.Reason))
	}
	return []policySection{
		{"Judgement", d.judgement()},
		{"Limits", d.limits()},
		{"Thresholds", thresholdTexts(d.Thresholds)},
		{"Settings that are not changed", banTexts(d.Forbid)},
		{"Devices", devices},
		{"Acknowledged findings", acknowledged},
	}
}

func (d Policy) judgement() []string {
	var out []string
	for _, flag := range []struct {
		on   bool
		text string
	}{
		{d.Latency, "the delay of a single packet counts for more than throughput"},
		{d.Forwarding, "packets leave this host again, whether or not the kernel shows that"},
		{d.HarmOnly, "only findings with measured harm lead to changes"},
	} {
		if flag.on {
			out = append(out, flag.text)
		}
	}
	return out
}

func (d Policy) limits() []string {
	var out []string
	switch d.MaxDisruption {
	case "none":
		out = append(out, "no change may disturb traffic")
	case "packets":
		out = append(out, "a change may lose or reorder packets for a moment, but not reset a link")
	}
	out = append(out, roleTexts(d.NetworkCPUs, d.ForbiddenCPUs)...)
	return append(out, d.Caps.texts()...)
}

func roleTexts(network, forbidden string) []string {
	var out []string
	if network != "" {
		out = append(out, "network work goes to CPUs "+network)
	}
	if forbidden != "" {
		out = append(out, "no network work goes to CPUs "+forbidden)
	}
	return out
}

func thresholdTexts(list []PolicyThreshold) []string {
	var out []string
	for _, t := range list {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s: %s instead of %s %s", t.Name, figure(t.Value), figure(t.Default), t.Unit))+" — "+t.Why)
	}
	return out
}

func (c PolicyCaps) texts() []string {
	var out []string
	for _, limit := range []struct {
		n    int
		what string
	}{{c.Queues, "queues"}, {c.RxRing, "receive descriptors per queue"}, {c.TxRing, "transmit descriptors per queue"}} {
		if limit.n > 0 {
			out = append(out, fmt.Sprintf("at most %s %s", count(uint64(limit.n)), limit.what))
		}
	}
	return out
}

func (o PolicyDevice) text() string {
	who := cmp.Or(o.Name, "every device")
	if o.Driver != "" {
		who += " with driver " + o.Driver
	}
	return who + ": " + strings.Join(slices.Concat(o.Caps.texts(), roleTexts(o.NetworkCPUs, o.ForbiddenCPUs), prefixed("no change of ", banTexts(o.Forbid)), thresholdTexts(o.Thresholds)), "; ")
}

func prefixed(prefix string, list []string) []string {
	for i := range list {
		list[i] = prefix + list[i]
	}
	return list
}

func banTexts(bans []PolicyBan) []string {
	var out []string
	for _, b := range bans {
		out = append(out, b.Setting+" — "+b.Why)
	}
	return out
}

// figure prints a threshold with all its digits.
func figure(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
