package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/detect/owner"
	"github.com/napitune/napitune/profiles/boot"
	"github.com/napitune/napitune/rules/plan"
)

// unitFiles are the units and the udev rule as packages ship them.
//
//go:embed units
var unitFiles embed.FS

const (
	// packagedUnits and packagedRules are where packages put them, and own*
	// where this program does if no package did (systemd.unit(5), udev(7)).
	packagedUnits = "/usr/lib/systemd/system"
	ownUnits      = "/etc/systemd/system"
	ownRules      = "/etc/udev/rules.d"
	ruleFile      = "99-napitune.rules"
	// packagedProgram is the program in the units of packages.
	packagedProgram = "/usr/bin/napitune"
	// ownMark is the first line of what this program put there, so that nothing
	// else is ever removed.
	ownMark = "# Made by napitune profile install; napitune profile remove takes it away.\n"
)

// bootUnits are enabled for a profile, guardUnit on request.
var bootUnits = []string{"napitune-boot.service", "napitune-settle.service"}

const guardUnit = "napitune-guard.service"

// installFlags are the options of "profile install" and "profile remove".
func installFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "guard", Usage: "install: also enable the service that keeps the profile while the host runs"},
		&cli.BoolFlag{Name: "no-units", Usage: "install: put the profile in place and leave systemd alone"},
		&cli.BoolFlag{Name: "no-reload", Usage: "install: let a guard that runs go on with the profile that it has read"},
		&cli.StringFlag{Name: "root", Usage: "install, remove: work on the system mounted at `DIR`"},
		&cli.BoolFlag{Name: "force", Usage: "install: also a profile that this host cannot take wholly; save: replace a profile of that name"},
		&cli.BoolFlag{Name: "dry-run", Usage: "save, install, remove: say what would be done and write nothing"},
	}
}

// installation is one run of "profile install" or "profile remove".
type installation struct {
	e            env
	ctx          context.Context
	root         string
	dry          bool
	withUnits    bool
	steps        int
	reloadsUnits bool
	reloadsRules bool
}

func newInstallation(c *cli.Context, e env) (*installation, error) {
	i := &installation{e: e, ctx: c.Context, root: c.String("root"), dry: c.Bool("dry-run"), withUnits: !c.Bool("no-units")}
	if i.root == "" && !i.dry && os.Geteuid() != 0 {
		return nil, errors.New("profile " + c.Args().First() + " needs root: it writes " + installedProfile + " and units (sudo, or --root DIR for an image)")
	}
	if i.withUnits && !i.dry && e.Command == nil {
		return nil, errors.New("this build runs no systemctl: --no-units leaves systemd alone")
	}
	return i, nil
}

// installProfile puts a profile in force from the next boot on, and at once where
// a guard runs that is not to go on with what it has read.
func installProfile(c *cli.Context, e env, value string) error {
	i, err := newInstallation(c, e)
	if err != nil {
		return err
	}
	p, data, err := i.find(value)
	if err != nil {
		return err
	}
	if err := i.suits(p, value, c.Bool("force")); err != nil {
		return err
	}
	i.nameOwners(p)
	if i.withUnits {
		i.adviseGuard(p, c.Bool("guard"))
		if err := i.putUnits(); err != nil {
			return err
		}
	}
	before := i.steps
	if err := i.write(installedProfile, data); err != nil {
		return err
	}
	another := i.steps > before
	if i.withUnits {
		units := bootUnits
		if c.Bool("guard") {
			units = append(slices.Clone(units), guardUnit)
		}
		if err := i.systemctl("enable", units...); err != nil {
			return err
		}
	}
	// Told of the same profile again, a guard would take up what it left.
	guarded := i.withUnits && another && i.guardRuns()
	reload := guarded && !c.Bool("no-reload")
	if reload {
		if err := i.run("systemctl", "reload", guardUnit); err != nil {
			return err
		}
	}
	switch {
	case i.dry:
		return nil
	case reload:
		return i.say("boot profile %s is in force: %s has read it and sets it now", p.Name, guardUnit)
	case guarded:
		return i.say("boot profile %s is in force from the next boot on; %s goes on with what it has read (systemctl reload %s has it set this one now)", p.Name, guardUnit, guardUnit)
	}
	return i.say("boot profile %s is in force from the next boot on; napitune boot sets it now", p.Name)
}

// guardRuns reports whether a guard keeps the profile of this system now.
func (i *installation) guardRuns() bool {
	if i.root != "" || i.e.Command == nil {
		return false
	}
	_, err := i.e.Command(i.ctx, "systemctl", "is-active", "--quiet", guardUnit)
	return err == nil
}

// find reads a profile, by the name under which it was saved or from a file.
// One with a mistake is not installed.
func (i *installation) find(value string) (boot.Profile, []byte, error) {
	path := value
	if !isPolicyFile(value) {
		path = savedPath(i.root, value)
	}
	data, err := readProfileFile(path)
	if errors.Is(err, fs.ErrNotExist) && path != value {
		return boot.Profile{}, nil, fmt.Errorf("no profile %q is saved: there is %s (napitune profile save NAME; a value with a slash or ending in .yaml is a file)", value, i.saved())
	}
	if err != nil {
		return boot.Profile{}, nil, err
	}
	p, err := boot.Parse(path, data)
	return p, data, err
}

func (i *installation) saved() string {
	entries, err := os.ReadDir(filepath.Join(i.root, savedProfiles))
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			names = append(names, name)
		}
	}
	if err != nil || len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// suits refuses what this host cannot take, since every boot would fail. What an
// image will boot on is not known here.
func (i *installation) suits(p boot.Profile, value string, force bool) error {
	if i.root != "" || force {
		return nil
	}
	m, err := i.e.Open("")
	if err != nil {
		return err
	}
	_, problems, err := profilePlan(m, p, boot.Scope{})
	problems = slices.DeleteFunc(problems, boot.Problem.Excused)
	if err != nil || len(problems) == 0 {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "this host cannot take all of %s, and every boot would report it (--force installs it all the same):", value)
	for _, problem := range problems {
		b.WriteString("\n  - " + problem.String())
	}
	return errors.New(b.String())
}

// nameOwners says which programs write the settings of the profile as well, and
// what each boot does about them. That it cannot be found out keeps no profile
// from being installed.
func (i *installation) nameOwners(p boot.Profile) {
	if i.root != "" {
		return
	}
	m, err := i.e.Open("")
	if err != nil {
		return
	}
	found, _, err := profilePlan(m, p, boot.Scope{})
	if err != nil {
		return
	}
	owners, err := findOwners(m)
	if err != nil {
		return
	}
	for _, o := range owners {
		if text := contest(o, found); text != "" {
			_, _ = fmt.Fprintln(i.e.Stderr, "napitune: "+report.Clean(o.Name)+" "+text)
		}
	}
}

// adviseGuard says what no boot makes stand on a device that comes up late: the unit
// of the device has ended by then.
func (i *installation) adviseGuard(p boot.Profile, wanted bool) {
	kinds := p.OnlyUp()
	if len(kinds) == 0 || wanted || i.exists(guardEnabled) {
		return
	}
	_, _ = fmt.Fprintf(i.e.Stderr, "napitune: many drivers have %s only while a device is up, and no unit starts when one comes up late or again: with --guard, %s sets it then\n",
		strings.Join(kinds, ", "), guardUnit)
}

// contest is what an owner means for the settings of a profile, "" for nothing.
func contest(o owner.Owner, found plan.Plan) string {
	var refs []knob.Ref
	for _, kept := range found.Kept {
		if _, fights := o.Fights(kept.Ref, kept.Value); fights {
			refs = append(refs, kept.Ref)
		}
	}
	for _, c := range found.Changes {
		if _, fights := o.Fights(c.Ref, c.After); fights {
			refs = append(refs, c.Ref)
		}
	}
	if len(refs) == 0 || o.Habit == owner.AtBoot {
		return "" // the boot sets its values after that
	}
	what := refs[0].String()
	if len(refs) > 1 {
		what += fmt.Sprintf(" and %d more", len(refs)-1)
	}
	text := fmt.Sprintf("writes %s as well, %s: ", report.Clean(what), o.When)
	switch {
	case o.Exceptions != "":
		var buses []string
		for _, ref := range refs {
			if bus := busOf(found.Origin, ref.Dev); bus != "" && !slices.Contains(buses, bus) {
				buses = append(buses, bus)
			}
		}
		text += "each boot tells it to leave that alone, which lasts until it restarts"
		if len(buses) > 0 {
			text += ". " + banForGood(buses)
		}
		return text
	case o.Habit == owner.Always:
		return text + "no boot sets that while it runs, and each reports it as a problem (" + o.Remedy + ")"
	default:
		return text + "what a boot sets lasts until then (to end that: " + o.Remedy + ")"
	}
}

// putUnits writes the units and the rule unless a package has.
func (i *installation) putUnits() error {
	if i.exists(filepath.Join(packagedUnits, bootUnits[0])) {
		return nil
	}
	program, err := i.program()
	if err != nil {
		return err
	}
	entries, err := unitFiles.ReadDir("units")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := unitFiles.ReadFile("units/" + entry.Name())
		if err != nil {
			return err
		}
		dir := ownUnits
		if entry.Name() == ruleFile {
			dir, i.reloadsRules = ownRules, true
		}
		text = bytes.ReplaceAll(text, []byte(packagedProgram+" "), []byte(program+" "))
		text = bytes.ReplaceAll(text, []byte(filepath.Dir(packagedProgram)+"\n"), []byte(filepath.Dir(program)+"\n"))
		if err := i.write(filepath.Join(dir, entry.Name()), append([]byte(ownMark), text...)); err != nil {
			return err
		}
	}
	return nil
}

// hidden are directories that the units do not see or that are gone at boot.
var hidden = []string{"/home/", "/root/", "/tmp/", "/var/tmp/", "/run/"}

// program is what the units run.
func (i *installation) program() (string, error) {
	if i.root != "" {
		return packagedProgram, nil
	}
	program, err := ownPath()
	if err != nil {
		return "", err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return "", fmt.Errorf("own program: %w", err)
	}
	unfit := slices.ContainsFunc(hidden, func(dir string) bool { return strings.HasPrefix(program, dir) })
	if unfit || strings.ContainsAny(program, " \t\"'\\%$;") {
		return "", fmt.Errorf("the units cannot run %s: copy it to /usr/local/bin/napitune and run that", program)
	}
	return program, nil
}

// removeProfile ends what installProfile began. Settings stay as they are.
func removeProfile(c *cli.Context, e env, name string) error {
	i, err := newInstallation(c, e)
	if err != nil {
		return err
	}
	if name != "" && !boot.ValidName(name) {
		return fmt.Errorf("name %q: that is no name of a profile", name)
	}
	installed, there := i.installedName()
	if there && (name == "" || name == installed) {
		if err := i.uninstall(); err != nil {
			return err
		}
	}
	if name != "" {
		if err := i.remove(savedPath("", name), ""); err != nil {
			return err
		}
	}
	switch {
	case i.steps == 0 && name != "":
		return fmt.Errorf("no profile %q is installed or saved: installed is %s, saved is %s", name, orNone(installed), i.saved())
	case i.steps == 0:
		return errors.New("no boot profile is installed")
	case i.dry:
		return nil
	case there:
		return i.say("settings stay as they are until the next boot; napitune rollback undoes what was set since this one")
	}
	return nil
}

func orNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

// installedName is the name of the installed profile, as far as it can be read.
func (i *installation) installedName() (string, bool) {
	path := filepath.Join(i.root, installedProfile)
	data, err := readProfileFile(path)
	if err != nil {
		return "", i.exists(installedProfile)
	}
	p, _ := boot.ParseRest(path, data)
	return p.Name, true
}

// uninstall disables first: a unit without its file cannot be disabled.
func (i *installation) uninstall() error {
	units := slices.DeleteFunc(append(slices.Clone(bootUnits), guardUnit), func(unit string) bool {
		return !i.exists(filepath.Join(packagedUnits, unit)) && !i.exists(filepath.Join(ownUnits, unit))
	})
	if i.withUnits && len(units) > 0 {
		if err := i.systemctl("disable", units...); err != nil {
			return err
		}
		// A guard without a profile has nothing to keep. Stopping it changes
		// no setting.
		if i.root == "" {
			if err := i.run("systemctl", "stop", guardUnit); err != nil && !i.dry {
				_, _ = fmt.Fprintf(i.e.Stderr, "napitune: %v\n", err)
			}
		}
	}
	if err := i.remove(installedProfile, ""); err != nil {
		return err
	}
	if !i.withUnits {
		return nil
	}
	entries, err := unitFiles.ReadDir("units")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		dir := ownUnits
		if entry.Name() == ruleFile {
			dir = ownRules
		}
		if err := i.remove(filepath.Join(dir, entry.Name()), ownMark); err != nil {
			return err
		}
	}
	return i.reload()
}

func (i *installation) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(i.root, path))
	return err == nil
}

// write replaces a file at one stroke, and does nothing where it is so already.
func (i *installation) write(path string, data []byte) error {
	full := filepath.Join(i.root, path)
	if old, err := os.ReadFile(full); err == nil && bytes.Equal(old, data) {
		return nil
	}
	i.steps++
	i.reloadsUnits = i.reloadsUnits || filepath.Dir(path) == ownUnits
	if i.dry {
		return i.say("would write %s", full)
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := renameio.WriteFile(full, data, 0o644); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return i.say("wrote %s", full)
}

// remove takes a file away if it is there and begins with the mark.
func (i *installation) remove(path, mark string) error {
	full := filepath.Join(i.root, path)
	data, err := os.ReadFile(full)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(data, []byte(mark)) {
		return nil
	}
	i.steps++
	i.reloadsUnits = i.reloadsUnits || filepath.Dir(path) == ownUnits
	i.reloadsRules = i.reloadsRules || filepath.Dir(path) == ownRules
	if i.dry {
		return i.say("would remove %s", full)
	}
	if err := os.Remove(full); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return i.say("removed %s", full)
}

// systemctl enables or disables units, on an image without asking its systemd.
func (i *installation) systemctl(verb string, units ...string) error {
	if i.root != "" {
		return i.run("systemctl", append([]string{"--root=" + i.root, verb}, units...)...)
	}
	if err := i.reload(); err != nil {
		return err
	}
	return i.run("systemctl", append([]string{verb}, units...)...)
}

// reload has the running systemd and udev read what was written.
func (i *installation) reload() error {
	if i.root != "" {
		return nil
	}
	if i.reloadsUnits {
		if err := i.run("systemctl", "daemon-reload"); err != nil {
			return err
		}
	}
	if i.reloadsRules {
		if err := i.run("udevadm", "control", "--reload"); err != nil {
			return err
		}
	}
	i.reloadsUnits, i.reloadsRules = false, false
	return nil
}

func (i *installation) run(name string, args ...string) error {
	line := name + " " + strings.Join(args, " ")
	if i.dry {
		return i.say("would run %s", line)
	}
	out, err := i.e.Command(i.ctx, name, args...)
	if err != nil {
		text := strings.TrimSpace(string(out))
		if text != "" {
			text = ": " + strings.ReplaceAll(text, "\n", "; ")
		}
		return fmt.Errorf("%s: %w%s", line, err, text)
	}
	return i.say("ran %s", line)
}

func (i *installation) say(format string, args ...any) error {
	_, err := fmt.Fprintf(i.e.Stdout, format+"\n", args...)
	return err
}
