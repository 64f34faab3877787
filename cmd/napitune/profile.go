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
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/profiles/strict"
	"github.com/napitune/napitune/rules"
	"github.com/napitune/napitune/rules/plan"
)

// profileAction is one thing that "napitune profile" can do.
type profileAction struct {
	name string
	// argument is what it takes, "" for none; in brackets it may be missing.
	argument string
	// options are those that have a meaning for it.
	options []string
}

func profileActions() []profileAction {
	return []profileAction{
		{"list", "", []string{"format", "no-color"}},
		{"show", "NAME|FILE", []string{"format", "no-color", "host"}},
		{"check", "FILE", []string{"format", "no-color"}},
		{"save", "NAME", []string{"from", "plan", "cpus", "match", "description", "output", "o", "root", "force", "dry-run", "host"}},
		{"install", "NAME|FILE", []string{"guard", "no-units", "no-reload", "root", "force", "dry-run"}},
		{"remove", "[NAME]", []string{"no-units", "root", "dry-run"}},
	}
}

func profileActionNames() []string {
	var out []string
	for _, a := range profileActions() {
		out = append(out, a.name)
	}
	return out
}

func profileCommand(e env) *cli.Command {
	formats := append(documentFormats(), exportFormats()...)
	flags := []cli.Flag{
		&cli.StringFlag{Name: "format", Value: formats[0], Usage: "list, show, check, and the last three for show with a boot profile: print as `WORD`: " + strings.Join(formats, ", ")},
		&cli.BoolFlag{Name: "no-color", Usage: "print without colours"},
		&cli.StringFlag{Name: "host", Usage: "show, save: for the captured host `PATH` instead of this machine"},
	}
	return &cli.Command{
		Name:      "profile",
		Usage:     "policies that findings are judged by, and boot profiles that keep settings over boots",
		ArgsUsage: "list|show NAME|check FILE|save NAME|install NAME|remove",
		Description: "A policy sets thresholds, CPU roles and what may be changed. Those that come with napitune have a name;\n" +
			"a site's own is a YAML file that extends one of them. A boot profile is a YAML file with desired values, matched to\n" +
			"devices by driver, bus, queues, name or address, which napitune boot makes stand. A value with a slash or the ending\n" +
			".yaml is a file, anything else a name.\n\n" +
			"napitune profile list                            the policies\n" +
			"napitune profile check FILE                      ends with 1 and names the line of every mistake, of either kind of file\n" +
			"napitune profile save edge                       a boot profile of what was applied and confirmed last\n" +
			"napitune profile save edge --plan plan.json      of a reviewed plan\n" +
			"napitune profile save fleet --cpus solve --match driver\n" +
			"                                                 one for hosts of all sizes: CPUs are chosen on each\n" +
			"napitune profile install edge                    in force at every boot; now only where a guard runs\n" +
			"                                                 (--no-reload: there neither)\n" +
			"napitune profile show edge --format sysctl       as a file for sysctl.d, with what that cannot express;\n" +
			"                                                 link for systemd-udevd, shell for a script\n" +
			"napitune profile remove                          no more; changes no setting now",
		Flags:  append(append(flags, saveFlags()...), installFlags()...),
		Action: func(c *cli.Context) error { return profile(c, e, formats) },
	}
}

func profile(c *cli.Context, e env, formats []string) error {
	o := options{format: c.String("format"), style: report.Style{Width: e.Width, Color: e.IsTTY && !e.NoColor && !c.Bool("no-color")}}
	if !slices.Contains(formats, o.format) {
		return fmt.Errorf("--format %q: profile prints %s", o.format, strings.Join(formats, ", "))
	}
	action, args, err := parseProfileAction(c.Args().Slice())
	if err != nil {
		return err
	}
	if err := checkProfileOptions(c, action); err != nil {
		return err
	}
	if action.name == "show" {
		if path, data, found := findBootProfile(args[0]); found {
			return showBootProfile(c, e, path, data, o)
		}
	}
	if slices.Contains(exportFormats(), o.format) {
		return fmt.Errorf("--format %s: only a boot profile has that form (napitune profile show FILE)", o.format)
	}
	switch action.name {
	case "save":
		o.log = logger(e, false)
		return saveProfile(c, e, args[0], o)
	case "install":
		return installProfile(c, e, args[0])
	case "remove":
		return removeProfile(c, e, strings.Join(args, ""))
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

// parseProfileAction takes the arguments apart; without any, it lists.
func parseProfileAction(args []string) (action profileAction, rest []string, err error) {
	all := profileActions()
	if len(args) == 0 {
		return all[0], nil, nil
	}
	name, rest := args[0], args[1:]
	at := slices.IndexFunc(all, func(a profileAction) bool { return a.name == name })
	if at < 0 {
		hint := "there is " + strings.Join(profileActionNames(), ", ")
		if near := strict.Near(name, profileActionNames()); len(near) > 0 {
			hint = "did you mean " + near[0] + "?"
		}
		return action, nil, fmt.Errorf("profile cannot %q; %s", name, hint)
	}
	action = all[at]
	optional := strings.HasPrefix(action.argument, "[")
	switch {
	case action.argument == "" && len(rest) > 0:
		return action, nil, fmt.Errorf("profile %s takes no argument %q", name, rest[0])
	case action.argument != "" && len(rest) != 1 && !(optional && len(rest) == 0):
		return action, nil, fmt.Errorf("profile %s needs one argument, %s", name, strings.Trim(action.argument, "[]"))
	}
	return action, rest, nil
}

// checkProfileOptions refuses options that would silently do nothing.
func checkProfileOptions(c *cli.Context, action profileAction) error {
	for _, name := range c.LocalFlagNames() {
		if !slices.Contains(action.options, name) {
			return fmt.Errorf("profile %s has no option %s", action.name, dashed(name))
		}
	}
	return nil
}

// checkPolicy reads a boot profile or a site's policy and says what it holds. A mistake is the error.
func checkPolicy(e env, path string, o options) error {
	if data, err := readProfileFile(path); err == nil && boot.IsProfile(data) {
		return checkBootProfile(e, path, data, o)
	}
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
