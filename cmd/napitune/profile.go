package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// profileActions are what "napitune profile" can do, with the arguments each takes.
var profileActions = map[string]string{"list": "", "show": "NAME|FILE", "check": "FILE"}

func profileCommand(e env) *cli.Command {
	formats := documentFormats()
	return &cli.Command{
		Name:      "profile",
		Usage:     "list, show and check the policies that findings are judged by",
		ArgsUsage: "list|show NAME|check FILE",
		Description: "A policy sets thresholds, CPU roles and what may be changed. Those that come with napitune have a name;\n" +
			"a site's own is a YAML file that extends one of them. Here and for --profile, a value with a slash\n" +
			"or the ending .yaml is a file, anything else a name. check ends with 1 and names the line if the file\n" +
			"has a mistake.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: formats[0], Usage: "print as `WORD`: " + strings.Join(formats, ", ")},
			&cli.BoolFlag{Name: "no-color", Usage: "print without colours"},
		},
		Action: func(c *cli.Context) error { return profile(c, e, formats) },
	}
}

func profile(c *cli.Context, e env, formats []string) error {
	o := options{format: c.String("format"), style: report.Style{Width: e.Width, Color: e.IsTTY && !e.NoColor && !c.Bool("no-color")}}
	if !slices.Contains(formats, o.format) {
		return fmt.Errorf("--format %q: profile prints %s", o.format, strings.Join(formats, ", "))
	}
	action, args, err := profileAction(c.Args().Slice())
	if err != nil {
		return err
	}
	switch action {
	case "list":
		list, err := everyPolicy()
		if err != nil {
			return err
		}
		return printDocument(e, report.NewPolicies(list), o)
	case "check":
		return checkPolicy(e, args[0], o)
	default:
		p, file, err := findPolicy(args[0])
		if err != nil {
			return err
		}
		return printDocument(e, report.NewPolicy(p, file, scales(), time.Now()), o)
	}
}

// profileAction takes the arguments apart; without any, it lists.
func profileAction(args []string) (action string, rest []string, err error) {
	if len(args) == 0 {
		return "list", nil, nil
	}
	action, rest = args[0], args[1:]
	wants, ok := profileActions[action]
	switch {
	case !ok:
		hint := "there is list, show and check"
		if near := report.Near(action, []string{"list", "show", "check"}); len(near) > 0 {
			hint = "did you mean " + near[0] + "?"
		}
		return "", nil, fmt.Errorf("profile cannot %q; %s", action, hint)
	case wants == "" && len(rest) > 0:
		return "", nil, fmt.Errorf("profile %s takes no argument %q", action, rest[0])
	case wants != "" && len(rest) != 1:
		return "", nil, fmt.Errorf("profile %s needs one argument, %s", action, wants)
	}
	return action, rest, nil
}

// checkPolicy reads a site's policy and says what it holds. A mistake is the error.
func checkPolicy(e env, path string, o options) error {
	p, err := readPolicy(path)
	if err != nil {
		return err
	}
	doc := report.NewPolicy(p, path, scales(), time.Now())
	if o.format != "text" {
		return printDocument(e, doc, o)
	}
	summary := fmt.Sprintf("%s: no mistake; policy %s extends %s", path, p.Name, p.Extends)
	if n := len(p.ExpiredAcknowledgements(time.Now())); n > 0 {
		summary += fmt.Sprintf("; %d of %d acknowledgements have expired", n, len(p.Acknowledgements))
	}
	if _, err := fmt.Fprintln(e.Stdout, summary); err != nil {
		return err
	}
	for _, a := range p.ExpiredAcknowledgements(time.Now()) {
		if _, err := fmt.Fprintf(e.Stdout, "%s:%d: %s on %s was acknowledged until %s\n", path, a.Line, a.Finding, a.Subject, a.Until.Format(time.DateOnly)); err != nil {
			return err
		}
	}
	return nil
}

func everyPolicy() ([]profiles.Policy, error) {
	var out []profiles.Policy
	for _, name := range profiles.Names() {
		p, err := profiles.ByName(name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// isPolicyFile tells files from names: a value with a slash or the ending .yaml
// is a file.
func isPolicyFile(value string) bool {
	return strings.ContainsRune(value, '/') || strings.HasSuffix(value, ".yaml")
}

// findPolicy is the meaning of --profile VALUE and of profile show VALUE. file
// is "" for a policy that comes with napitune.
func findPolicy(value string) (p profiles.Policy, file string, err error) {
	if !isPolicyFile(value) {
		p, err = profiles.ByName(value)
		return p, "", err
	}
	p, err = readPolicy(value)
	return p, value, err
}

// readPolicy reads a site's policy file.
func readPolicy(path string) (profiles.Policy, error) {
	f, err := os.Open(path)
	if err != nil {
		return profiles.Policy{}, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	// One byte more than a policy may have, so that the parser sees the excess.
	data, err := io.ReadAll(io.LimitReader(f, profiles.MaxFileBytes+1))
	if err != nil {
		return profiles.Policy{}, fmt.Errorf("policy: %w", err)
	}
	p, err := profiles.Parse(path, data, vocabulary())
	var mistake *profiles.Error
	if err != nil && !errors.As(err, &mistake) {
		return profiles.Policy{}, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, err
}

// vocabulary is what the rules have that a policy may name.
func vocabulary() profiles.Vocabulary {
	v := profiles.Vocabulary{Thresholds: map[string]string{}}
	for _, r := range rules.All() {
		v.Findings = append(v.Findings, r.ID)
	}
	for _, t := range rules.Thresholds() {
		v.Thresholds[t.Name] = t.Unit
	}
	return v
}

func scales() map[string]report.Scale {
	out := map[string]report.Scale{}
	for _, t := range rules.Thresholds() {
		out[t.Name] = report.Scale{Value: t.Value, Unit: t.Unit}
	}
	return out
}

// objections asks the policy about changes to the devices of a host.
func objections(p profiles.Policy, s *detect.Snapshot) func(ref knob.Ref, value string) string {
	view := s.View()
	return func(ref knob.Ref, value string) string {
		driver, disruption := "", knob.DisruptsNothing
		if d := s.Device(ref.Dev); d != nil {
			driver = d.Driver
		}
		if kind, ok := knob.Lookup(ref.Kind); ok {
			disruption = kind.DisruptionFor(view, ref)
		}
		return p.Objection(ref, value, driver, disruption)
	}
}

// acknowledge lowers the findings that the site has accepted to notes without
// changes, and says of those whose acceptance has expired that it has.
func acknowledge(findings []plan.Finding, p profiles.Policy, now time.Time) []plan.Finding {
	out := slices.Clone(findings)
	for i := range out {
		f := &out[i]
		standing, a := p.Standing(f.ID, f.Subject, now)
		day := a.Until.Format(time.DateOnly)
		switch standing {
		case profiles.Acknowledged:
			f.Severity, f.Wants = plan.Note, nil
			f.Claim += fmt.Sprintf(" (acknowledged until %s: %s)", day, a.Reason)
		case profiles.Expired:
			f.Claim += fmt.Sprintf(" (its acknowledgement expired on %s: %s)", day, a.Reason)
		}
	}
	slices.SortStableFunc(out, func(a, b plan.Finding) int { return int(b.Severity) - int(a.Severity) })
	return out
}
