package profiles

import (
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/napitune/napitune/detect/cpuset"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/strict"
)

// Error is a mistake in a policy file and where it is.
type Error = strict.Error

// MaxFileBytes is the size from which a policy file is refused. A policy is
// written by hand, and the largest imaginable is far smaller.
const MaxFileBytes = 64 << 10

const maxLineBytes = 4 << 10

// Vocabulary is what a policy may name besides settings. The caller takes it
// from the rules, which this package must not import.
type Vocabulary struct {
	// Findings are the ids of all findings.
	Findings []string
	// Thresholds maps the names of all thresholds to their units. A unit that
	// begins with "of " marks a share, which is at most 1.
	Thresholds map[string]string
}

// Parse reads a site's policy file. name is what errors call the file. An
// unknown key, a value of the wrong type, a key given twice, or a name that
// does not exist is an *Error with line and column; then the policy is the
// zero one.
//
// A file without "extends" extends the default policy, and one without "name"
// is called as the file is.
func Parse(name string, data []byte, vocab Vocabulary) (Policy, error) {
	p, err := parse(name, data, &vocab, ByName)
	if err != nil {
		return Policy{}, err
	}
	return p, nil
}

// reader reads one policy.
type reader struct {
	strict.Decoder
	policy Policy
	vocab  *Vocabulary // nil: the policies that come with the program
	base   func(name string) (Policy, error)
}

func parse(file string, data []byte, vocab *Vocabulary, base func(string) (Policy, error)) (Policy, error) {
	r := &reader{vocab: vocab, base: base, Decoder: strict.Decoder{
		File: file, Noun: "policy", MaxBytes: MaxFileBytes, MaxLineBytes: maxLineBytes,
	}}
	if root := r.Root(data); root != nil {
		r.read(root)
	}
	if r.Wrong() {
		return Policy{}, r.Mistakes()[0]
	}
	return r.policy, nil
}

func (r *reader) read(root ast.Node) {
	own := struct{ name, description string }{strings.TrimSuffix(path.Base(r.File), path.Ext(r.File)), ""}
	r.inherit(root)
	var cpus, named ast.Node
	r.Mapping(root, "the policy", map[string]strict.Field{
		"name":           func(n ast.Node) { named, own.name = n, r.name(n) },
		"description":    func(n ast.Node) { own.description = r.Text(n, "description") },
		"extends":        func(ast.Node) {},
		"latency":        func(n ast.Node) { r.policy.Latency = r.Boolean(n, "latency") },
		"forwarding":     func(n ast.Node) { r.policy.Forwarding = r.Boolean(n, "forwarding") },
		"harm-only":      func(n ast.Node) { r.policy.HarmOnly = r.Boolean(n, "harm-only") },
		"max-disruption": func(n ast.Node) { r.policy.MaxDisruption = r.disruption(n) },
		"thresholds": func(n ast.Node) {
			r.thresholds(n, &r.policy.Thresholds, &r.policy.Reasons)
		},
		"cpus":        func(n ast.Node) { cpus = n; r.cpuRoles(n, "", &r.policy.NetworkCPUs, &r.policy.ForbiddenCPUs) },
		"caps":        func(n ast.Node) { r.caps(n, &r.policy.Caps) },
		"forbid":      func(n ast.Node) { r.policy.Bans = append(r.policy.Bans, r.bans(n)...) },
		"devices":     func(n ast.Node) { r.List(n, "devices", r.override) },
		"acknowledge": func(n ast.Node) { r.List(n, "acknowledge", r.acknowledgement) },
	})
	r.contradiction(orRoot(cpus, root), r.policy.NetworkCPUs, r.policy.ForbiddenCPUs)
	// A report that says "minimal" must mean the one that everybody has.
	if r.vocab != nil && slices.Contains(Names(), own.name) {
		r.Fail(orRoot(named, root), "the name %q is that of a policy that comes with napitune; give this one another with the key name", own.name)
	}
	r.policy.Name, r.policy.Description = own.name, own.description
	r.policy.Forbidden = literals(r.policy.Bans)
}

// contradiction refuses CPU roles that leave no CPU for network work.
func (r *reader) contradiction(n ast.Node, network, forbidden cpuset.Set) {
	if !network.IsEmpty() && network.Minus(forbidden).IsEmpty() {
		r.Fail(n, "all network CPUs (%s) are forbidden ones (%s)", network, forbidden)
	}
}

func orRoot(n, root ast.Node) ast.Node {
	if n == nil {
		return root
	}
	return n
}

func literals(bans []Ban) []string {
	var out []string
	for _, b := range bans {
		if b.Pattern.literal() && !slices.Contains(out, string(b.Pattern)) {
			out = append(out, string(b.Pattern))
		}
	}
	return out
}

// inherit starts from the policy named by "extends", wherever in the file that
// is: everything else overrides it.
func (r *reader) inherit(root ast.Node) {
	name, node := "", root
	if m, ok := root.(*ast.MappingNode); ok {
		for _, pair := range m.Values {
			if key, ok := pair.Key.(*ast.StringNode); ok && key.Value == "extends" {
				node = pair.Value
				name = r.Text(node, "extends")
			}
		}
	}
	switch {
	case r.Wrong() || name == "" && r.vocab == nil:
		return
	case name == "":
		name = defaultName
	}
	base, err := r.base(name)
	if err != nil {
		r.Fail(node, "extends: %v", err)
		return
	}
	r.policy = base.clone()
	r.policy.Extends = name
}

// name reads what the policy calls itself: one word, so that --profile can
// tell names from files.
func (r *reader) name(n ast.Node) string {
	name := r.Text(n, "name")
	if strings.ContainsAny(name, "/ ") || strings.HasSuffix(name, ".yaml") {
		r.Fail(n, "name %q: a name has no slash, no blank and does not end in .yaml", strict.Clip(name))
	}
	return name
}

// disruptions are the words of max-disruption, mildest first.
func disruptions() []string {
	return []string{knob.DisruptsNothing.String(), knob.DisruptsPackets.String(), knob.DisruptsLink.String()}
}

func (r *reader) disruption(n ast.Node) *knob.Disruption {
	word := r.Text(n, "max-disruption")
	i := slices.Index(disruptions(), word)
	if i < 0 {
		r.Fail(n, "max-disruption is %q; it is none, packets or link", strict.Clip(word))
		return nil
	}
	limit := knob.Disruption(i)
	return &limit
}

func (r *reader) thresholds(n ast.Node, values *map[string]float64, reasons *map[string]string) {
	r.Names(n, "thresholds", func(key ast.Node, name string, value ast.Node) {
		unit, ok := r.unit(key, name)
		if !ok {
			return
		}
		why, number := "", value
		set := 0.0
		r.Mapping(value, "threshold "+name, map[string]strict.Field{
			"value": func(n ast.Node) { number, set = n, r.Number(n, name) },
			"why":   func(n ast.Node) { why = r.Text(n, "why") },
		})
		switch {
		case number == value:
			r.Fail(key, "threshold %s has no value", name)
		case why == "":
			r.Fail(key, "threshold %s has no why: say for what reason it differs", name)
		case strings.HasPrefix(unit, "of ") && set > 1:
			r.Fail(number, "threshold %s is a share %s: %v is more than 1", name, unit, set)
		}
		if *values == nil {
			*values, *reasons = map[string]float64{}, map[string]string{}
		}
		(*values)[name], (*reasons)[name] = set, why
	})
}

func (r *reader) unit(key ast.Node, name string) (string, bool) {
	if r.vocab == nil {
		return "", true
	}
	unit, ok := r.vocab.Thresholds[name]
	if !ok {
		var names []string
		for n := range r.vocab.Thresholds {
			names = append(names, n)
		}
		slices.Sort(names)
		r.Fail(key, "there is no threshold %q%s", strict.Clip(name), strict.Choices(name, names))
	}
	return unit, ok
}

// cpuRoles reads the two lists of CPUs; owner is "" or begins their names.
func (r *reader) cpuRoles(n ast.Node, owner string, network, forbidden *cpuset.Set) {
	list := func(key string, to *cpuset.Set) strict.Field {
		return func(n ast.Node) {
			*to = r.Cpus(n, key)
			line, _ := strict.Position(n)
			r.policy.Lists = append(r.policy.Lists, CPUList{File: r.File, Line: line, Key: owner + key, CPUs: *to})
		}
	}
	r.Mapping(n, "cpus", map[string]strict.Field{
		"network":   list("cpus.network", network),
		"forbidden": list("cpus.forbidden", forbidden),
	})
}

// Highest caps: the kernel numbers the queues of a device with 16 bits
// (queue_mapping in include/linux/skbuff.h), and counts descriptors with 32
// (struct ethtool_ringparam); 1<<20 is beyond any NIC.
const (
	mostQueues      = 1<<16 - 1
	mostDescriptors = 1 << 20
)

func (r *reader) caps(n ast.Node, c *Caps) {
	r.Mapping(n, "caps", map[string]strict.Field{
		"queues":  func(n ast.Node) { c.Queues = r.Limit(n, "caps.queues", mostQueues) },
		"rx-ring": func(n ast.Node) { c.RxRing = r.Limit(n, "caps.rx-ring", mostDescriptors) },
		"tx-ring": func(n ast.Node) { c.TxRing = r.Limit(n, "caps.tx-ring", mostDescriptors) },
	})
}

func (r *reader) bans(n ast.Node) []Ban {
	var out []Ban
	r.List(n, "forbid", func(n ast.Node) {
		var b Ban
		r.Mapping(n, "an entry of forbid", map[string]strict.Field{
			"setting": func(n ast.Node) { b.Pattern = r.pattern(n) },
			"why":     func(n ast.Node) { b.Why = r.Text(n, "why") },
		})
		switch {
		case b.Pattern == "":
			r.Fail(n, "the entry of forbid names no setting")
		case b.Why == "":
			r.Fail(n, "the entry of forbid for %s has no why", b.Pattern)
		}
		out = append(out, b)
	})
	return out
}

func (r *reader) pattern(n ast.Node) Pattern {
	text := r.Text(n, "setting")
	if text == "" {
		return ""
	}
	p, err := ParsePattern(text)
	if err != nil {
		r.Fail(n, "%v", err)
	}
	return p
}

func (r *reader) override(n ast.Node) {
	var o Override
	r.Mapping(n, "an entry of devices", map[string]strict.Field{
		"name":   func(n ast.Node) { o.Name = r.Text(n, "name") },
		"driver": func(n ast.Node) { o.Driver = r.Text(n, "driver") },
		"caps":   func(n ast.Node) { r.caps(n, &o.Caps) },
		"forbid": func(n ast.Node) { o.Bans = r.bans(n) },
		"cpus":   func(n ast.Node) { r.cpuRoles(n, "devices.", &o.NetworkCPUs, &o.ForbiddenCPUs) },
		"thresholds": func(n ast.Node) {
			r.thresholds(n, &o.Thresholds, &o.Reasons)
		},
	})
	switch {
	case o.Name == "" && o.Driver == "":
		r.Fail(n, "the entry of devices names neither a device nor a driver")
	case o.empty():
		r.Fail(n, "the entry of devices sets nothing: caps, cpus, forbid or thresholds is needed")
	}
	r.contradiction(n, o.NetworkCPUs, o.ForbiddenCPUs)
	r.policy.Overrides = append(r.policy.Overrides, o)
}

func (o Override) empty() bool {
	return o.Caps == Caps{} && len(o.Bans) == 0 && len(o.Thresholds) == 0 && o.NetworkCPUs.IsEmpty() && o.ForbiddenCPUs.IsEmpty()
}

func (r *reader) acknowledgement(n ast.Node) {
	var a Acknowledgement
	a.Line, _ = strict.Position(n)
	r.Mapping(n, "an entry of acknowledge", map[string]strict.Field{
		"finding": func(n ast.Node) { a.Finding = r.finding(n) },
		"subject": func(n ast.Node) { a.Subject = r.Text(n, "subject") },
		"reason":  func(n ast.Node) { a.Reason = r.Text(n, "reason") },
		"until":   func(n ast.Node) { a.Until = r.Date(n, "until") },
	})
	switch {
	case a.Finding == "":
		r.Fail(n, "the entry of acknowledge names no finding")
	case a.Subject == "":
		r.Fail(n, `the entry of acknowledge for %s names no subject ("*" means every one)`, a.Finding)
	case a.Reason == "":
		r.Fail(n, "the entry of acknowledge for %s gives no reason", a.Finding)
	case a.Until.IsZero():
		r.Fail(n, "the entry of acknowledge for %s has no until: the last day on which it holds", a.Finding)
	}
	r.policy.Acknowledgements = append(r.policy.Acknowledgements, a)
}

func (r *reader) finding(n ast.Node) string {
	id := r.Text(n, "finding")
	if r.vocab != nil && id != "" && !slices.Contains(r.vocab.Findings, id) {
		r.Fail(n, "there is no finding %q%s", strict.Clip(id), strict.Choices(id, r.vocab.Findings))
	}
	return id
}
