// Package bench measures what BENCHMARKS.md publishes and writes it.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/napitune/napitune/lab"
)

// Section is one chapter of the document: a command and what it prints.
type Section struct {
	Name    string // of the file that its output is kept in
	Title   string
	Text    string                                    // what the figures mean and what they do not
	Shell   string                                    // run in the root of the project; RESULTS is a file for JSON lines
	Derived bool                                      // its command reads what others left: run every time, and of no origin of its own
	Slow    bool                                      // needs guests, and many minutes
	Resumes bool                                      // its command goes on where RESULTS ends
	Judges  bool                                      // its command fails where a figure is not as it must be: such figures are shown all the same
	Extract func(out, results string) (string, error) // the Markdown of the figures
}

// Bench is a run: what was measured is kept and not measured again, so that
// one that ended early goes on where it was.
type Bench struct {
	Root  string // of the project
	Dir   string // where the output is kept
	Slow  bool   // measure slow sections too; else only those kept are shown
	Fresh bool   // measure again what is kept
	Only  string // measure no section but this; empty: all
	Log   func(format string, args ...any)
}

// Document measures what is not kept and returns the whole text. A section that
// cannot be measured shows what was measured earlier, or says that it was not;
// the error names all of them.
func (b Bench) Document(ctx context.Context, sections []Section) (string, error) {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return "", err
	}
	var out strings.Builder
	var errs []error
	out.WriteString(head)
	for n, s := range sections {
		if err := ctx.Err(); err != nil {
			return "", errors.Join(append(errs, fmt.Errorf("before %s: %w; what was measured is kept", s.Name, err))...)
		}
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n    %s\n\n", s.Title, strings.TrimSpace(s.Text), strings.ReplaceAll(s.Shell, "\n", "\n    "))
		figures, err := b.section(ctx, s, fmt.Sprintf("[%d/%d] %s", n+1, len(sections), s.Name))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
		if figures == "" {
			figures = "Not measured.\n"
		}
		out.WriteString(figures)
	}
	return out.String(), errors.Join(errs...)
}

const head = `# Figures

Written by ` + "`make figures`" + `: every figure was measured, by the command above it. Each says when, on what and how busy that
machine was; a busy machine makes times longer, so compare what stands in one table and not across machines. Guests are
emulated, all their CPUs taking turns on one thread: shares, counters and states in them are those of a real machine, rates
and times are not (lab/README.md). A plus sign after a commit stands for changes that were not committed yet.
`

// section returns the figures of a section. With an error they are those of an
// earlier run, or none.
func (b Bench) section(ctx context.Context, s Section, progress string) (string, error) {
	measured := b.measureUnlessKept(ctx, s, progress)
	figures, err := b.figures(s)
	if errors.Is(err, os.ErrNotExist) && measured != nil {
		err = nil
	}
	return figures, errors.Join(measured, err)
}

var errNotAsked = errors.New("not measured yet, and not asked for")

func (b Bench) measureUnlessKept(ctx context.Context, s Section, progress string) error {
	_, err := os.Stat(b.kept(s))
	asked := (b.Only == "" || b.Only == s.Name) && (b.Slow || !s.Slow)
	if err == nil && !s.Derived && (!b.Fresh || !asked) {
		b.Log("%s: kept from an earlier run", progress)
		return nil
	}
	if !asked && !s.Derived {
		return errNotAsked
	}
	b.Log("%s: %s", progress, s.Shell)
	start := time.Now()
	err = b.measure(ctx, s)
	took := time.Since(start).Round(time.Second)
	if err != nil {
		b.Log("%s: failed after %s", progress, took)
		return err
	}
	b.Log("%s: done in %s", progress, took)
	return nil
}

// kept is the file with a line about where figures come from and the output of
// the section's command; results is what that wrote as JSON lines.
func (b Bench) kept(s Section) string    { return filepath.Join(b.Dir, s.Name+".out") }
func (b Bench) results(s Section) string { return filepath.Join(b.Dir, s.Name+".json") }

// figures are those of the last run that was kept.
func (b Bench) figures(s Section) (string, error) {
	text, err := os.ReadFile(b.kept(s))
	if err != nil {
		return "", err
	}
	where, out, _ := strings.Cut(string(text), "\n")
	lines, err := readIfThere(b.results(s))
	if err != nil {
		return "", err
	}
	figures, err := s.Extract(out, lines)
	if err != nil {
		return "", err
	}
	if s.Derived {
		return figures, nil
	}
	return figures + "\n" + where + "\n", nil
}

func readIfThere(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// measure runs the command of a section in a directory beside the one that
// keeps, and keeps what it left if there are figures in it: what fails takes
// nothing away, unless its figures are what failed.
func (b Bench) measure(ctx context.Context, s Section) error {
	fresh := Bench{Root: b.Root, Dir: filepath.Join(b.Dir, "unfinished")}
	if err := os.MkdirAll(fresh.Dir, 0o755); err != nil {
		return err
	}
	if !s.Resumes || b.Fresh {
		if err := errors.Join(forget(fresh.results(s)), forget(originFile(fresh.results(s)))); err != nil {
			return err
		}
	}
	end := Watch(b.Root)
	command := lab.Child(ctx, "sh", "-c", s.Shell)
	command.Dir, command.Env = b.Root, append(os.Environ(), "RESULTS="+fresh.results(s), "KEPT="+b.Dir)
	var out bytes.Buffer
	both := &relay{to: &out, log: b.Log}
	command.Stdout, command.Stderr = both, both
	err := lab.RunChild(command)
	origin := end()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, lastLines(out.String(), 5))
	}
	if err != nil && (!s.Judges || ctx.Err() != nil) {
		return err
	}
	return errors.Join(err, b.keep(s, fresh, origin, out.String()))
}

// keep takes over what a run left elsewhere.
func (b Bench) keep(s Section, fresh Bench, origin Origin, out string) error {
	lines, err := readIfThere(fresh.results(s))
	if err != nil {
		return err
	}
	if _, err := s.Extract(out, lines); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(out, 5))
	}
	if signed, ok, err := originOf(fresh.results(s)); err != nil {
		return err
	} else if ok {
		origin = signed
	}
	errs := []error{os.WriteFile(b.kept(s), []byte(origin.String()+"\n"+out), 0o644)}
	for _, name := range []func(string) string{func(path string) string { return path }, originFile} {
		err := os.Rename(name(fresh.results(s)), name(b.results(s)))
		if errors.Is(err, os.ErrNotExist) {
			err = forget(name(b.results(s)))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Take keeps the results that a section's command wrote earlier, or elsewhere,
// as if it had been run here.
func (b Bench) Take(s Section, file string) error {
	lines, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if _, err := s.Extract("", string(lines)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	origin, signed, err := originOf(file)
	if err != nil {
		return err
	}
	where := origin.String()
	if !signed {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		where = fmt.Sprintf("Measured %s; on what and how busy that was is not recorded.", info.ModTime().UTC().Format(time.DateOnly))
	}
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(b.kept(s), []byte(where+"\n"), 0o644), os.WriteFile(b.results(s), lines, 0o644))
}

func forget(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// relay keeps what a command says and shows its headings at once: runs in
// guests take many minutes.
type relay struct {
	to   *bytes.Buffer
	log  func(format string, args ...any)
	line []byte
}

func (r *relay) Write(text []byte) (int, error) {
	for piece := range bytes.Lines(text) {
		r.line = append(r.line, piece...)
		if r.line[len(r.line)-1] != '\n' {
			break
		}
		if bytes.HasPrefix(r.line, []byte("== ")) {
			r.log("    %s", bytes.TrimSpace(r.line))
		}
		r.line = r.line[:0]
	}
	return r.to.Write(text)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// fenced is an error where a test skipped: its figures would be missing unseen.
// It shows lines as they were printed, without what go test puts before a
// line of a log.
func fenced(text string, keep func(line string) bool) (string, error) {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		if strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			return "", fmt.Errorf("not measured: %s", strings.TrimSpace(line))
		}
		if at := strings.Index(line, "_test.go:"); at >= 0 {
			_, line, _ = strings.Cut(line[at+len("_test.go:"):], ": ")
		}
		if keep(line) {
			lines = append(lines, line)
		}
	}
	for len(lines) > 0 && lines[0] == "" {
		lines = lines[1:]
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return "", errors.New("the command printed no figures")
	}
	return "```\n" + strings.Join(lines, "\n") + "\n```\n", nil
}

// frame is what go test prints around everything.
func frame(line string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return slices.Contains([]string{"===", "---", "PASS", "ok"}, word) || strings.HasPrefix(line, "ok ")
}
