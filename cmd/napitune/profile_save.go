package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

// saveFlags are the options of "profile save".
func saveFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "from", Usage: "save: take the values of transaction `ID`; may be given more than once, and later ones hold (default: the last confirmed one of apply)"},
		&cli.StringFlag{Name: "plan", Usage: "save: take the values of a reviewed plan `FILE`, as advise -o writes it"},
		&cli.StringFlag{Name: "cpus", Value: "fixed", Usage: "save: keep CPUs and numbers of queues as they are (fixed), or leave them to each host (solve): `WORD`"},
		&cli.StringFlag{Name: "match", Value: string(boot.ByBus), Usage: "save: know devices again by `WORD`: " + wayList()},
		&cli.StringFlag{Name: "description", Usage: "save: what the profile is for, in a `SENTENCE`"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "save: write to `FILE` (- is standard output) instead of " + savedProfiles},
	}
}

func wayList() string {
	var out []string
	for _, w := range boot.Ways() {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
}

// saveProfile makes a boot profile of what was applied or planned.
func saveProfile(c *cli.Context, e env, name string, o options) error {
	saving, err := parseSaving(c, name)
	if err != nil {
		return err
	}
	// The snapshot is that of the machine the values are for.
	m, err := e.Open(c.String("host"))
	if err != nil {
		return err
	}
	s, err := detect.Collect(m.last())
	if err != nil {
		return err
	}
	values, source, err := savedValues(c, e, m, o)
	if err != nil {
		return err
	}
	if saving.Description == "" {
		saving.Description = "Saved from " + source + "."
	}
	p, err := boot.Save(values, s, saving)
	if err != nil {
		return fmt.Errorf("profile save: %w", err)
	}
	return writeProfile(c, e, p, source)
}

func parseSaving(c *cli.Context, name string) (boot.Saving, error) {
	out := boot.Saving{Name: name, Description: strings.Join(strings.Fields(c.String("description")), " "), By: boot.By(c.String("match"))}
	switch {
	case !boot.ValidName(name):
		return out, fmt.Errorf("name %q: a name has letters, digits, dots, dashes and underscores, and does not end in .yaml", name)
	case !slices.Contains(boot.Ways(), out.By):
		return out, fmt.Errorf("--match %q: it is %s", out.By, wayList())
	case c.String("plan") != "" && len(c.StringSlice("from")) > 0:
		return out, errors.New("--plan and --from exclude each other")
	}
	switch word := c.String("cpus"); word {
	case "fixed":
	case "solve":
		out.Solve = true
	default:
		return out, fmt.Errorf("--cpus %q: it is fixed or solve", word)
	}
	return out, nil
}

// savedValues are the values to save, and in words where they are from.
func savedValues(c *cli.Context, e env, m *machine, o options) (map[knob.Ref]string, string, error) {
	if path := c.String("plan"); path != "" {
		p, err := readPlan(e, path)
		if err != nil {
			return nil, "", err
		}
		return planValues(e, p)
	}
	if !m.live {
		return nil, "", errors.New("a captured host has no transactions: --plan names what to save")
	}
	a, err := applier(e, m, o)
	if err != nil {
		return nil, "", err
	}
	list, err := a.Status()
	if err != nil {
		return nil, "", private(journalDir, "profile save", err)
	}
	return transactionValues(list, c.StringSlice("from"))
}

func planValues(e env, p plan.Plan) (map[knob.Ref]string, string, error) {
	out := map[knob.Ref]string{}
	for _, change := range p.Changes {
		out[change.Ref] = change.After
	}
	if n := len(p.Deferred); n > 0 {
		_, _ = fmt.Fprintf(e.Stderr, "napitune: %d settings of the plan wait for others and are not in the profile: apply the plan, then save from the transaction\n", n)
	}
	source := "a plan of profile " + p.Profile
	if p.Origin != nil {
		source += " for Linux " + p.Origin.Release
	}
	return out, source, nil
}

// transactionValues takes what the transactions left, not what they asked for:
// a driver may have rounded it.
func transactionValues(list []apply.Summary, ids []string) (map[knob.Ref]string, string, error) {
	if len(ids) == 0 {
		for _, s := range list {
			// What boot and guard set is of a profile already, and they are mostly the last.
			if s.State == apply.Confirmed && !s.Restores && !boot.Planned(s.Profile) {
				ids = []string{s.ID}
			}
		}
	}
	if len(ids) == 0 {
		return nil, "", errors.New("no transaction of napitune apply in this boot is confirmed: apply makes one, --from ID names another, or --plan FILE a reviewed plan")
	}
	out := map[knob.Ref]string{}
	for _, id := range ids {
		at := slices.IndexFunc(list, func(s apply.Summary) bool { return s.ID == id })
		switch {
		case at < 0:
			return nil, "", fmt.Errorf("--from %s: there is no such transaction in this boot (napitune status lists them)", id)
		case list[at].State != apply.Confirmed:
			return nil, "", fmt.Errorf("--from %s: it is %s; only a confirmed transaction is worth keeping", id, list[at].State)
		}
		for _, d := range list[at].Drift {
			out[d.Ref] = d.Wrote
		}
	}
	return out, "transaction " + strings.Join(ids, ", "), nil
}

// writeProfile puts a profile where it is wanted, and says where it is from and
// what to do with it.
func writeProfile(c *cli.Context, e env, p boot.Profile, source string) error {
	text := p.Format()
	path := c.String("output")
	if path == "-" || path == "" && c.Bool("dry-run") {
		_, err := e.Stdout.Write(text)
		return err
	}
	if path == "" {
		path = filepath.Join(c.String("root"), savedProfiles, p.Name+".yaml")
	}
	switch _, err := os.Lstat(path); {
	case c.Bool("dry-run"):
		_, err := fmt.Fprintf(e.Stdout, "would write %s:\n%s", path, text)
		return err
	case err == nil && !c.Bool("force"):
		return fmt.Errorf("%s is there already: --force replaces it", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("profile save: %w", err)
	}
	if c.String("output") == "" {
		// The directory above holds journals and is its owner's alone.
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("profile save: %w", err)
		}
	}
	if err := renameio.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("profile save: %w", err)
	}
	_, err := fmt.Fprintf(e.Stdout, "saved %s from %s: %s\nnapitune boot --dry-run %s shows what differs from it; napitune profile install %s puts it in force at every boot\n",
		path, source, report.BootContents(p), path, installArgument(c, p, path))
	return err
}

func installArgument(c *cli.Context, p boot.Profile, path string) string {
	if c.String("output") == "" {
		return p.Name
	}
	return path
}

// savedPath is where a saved profile of that name is.
func savedPath(root, name string) string {
	return filepath.Join(root, savedProfiles, name+".yaml")
}

// checkBootProfile reads a boot profile and says what it holds. Every mistake
// is a line of the error.
func checkBootProfile(e env, path string, data []byte, o options) error {
	p, err := boot.Parse(path, data)
	if err != nil {
		return err
	}
	if o.format != "text" {
		return printDocument(e, report.NewBootProfile(p, path), o)
	}
	_, err = fmt.Fprintf(e.Stdout, "%s: no mistake; boot profile %s: %s\n", path, p.Name, report.BootContents(p))
	return err
}
